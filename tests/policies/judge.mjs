// Reads questions from the standard input, one JSON document a line: {policy, action, resource, account, context}. Answers each with a
// line: true or false. An error of the evaluator, a policy that it does not take included, ends it.
import { createInterface } from 'node:readline'
import { runSimulation } from '@cloud-copilot/iam-simulate'

for await (const line of createInterface({ input: process.stdin })) {
  const { policy, action, resource, account, context } = JSON.parse(line)
  const answer = await runSimulation(
    {
      request: {
        principal: `arn:aws:iam::${account}:role/codeloc/codeloc-orders`,
        action,
        resource: { resource, accountId: account },
        contextVariables: context,
      },
      identityPolicies: [{ name: 'codeloc', policy }],
      serviceControlPolicies: [],
      resourceControlPolicies: [],
    },
    {},
  )
  if (answer.resultType === 'error') {
    console.error(JSON.stringify({ line, errors: answer.errors }))
    process.exit(1)
  }
  const result = answer.overallResult ?? answer.analysis?.result
  if (!['Allowed', 'ImplicitlyDenied', 'ExplicitlyDenied'].includes(result)) {
    console.error(JSON.stringify({ line, answer }).slice(0, 2000))
    process.exit(1)
  }
  console.log(result === 'Allowed')
}
