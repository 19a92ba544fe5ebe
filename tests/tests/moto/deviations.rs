//! The deviations of moto from AWS that this test meets, and their consequences.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deviation {
    NoTasks,
    NoInstances,
    NamespaceIgnored,
    ConfigurationDropped,
    DeploymentStays,
    InactiveAtOnce,
    InactiveListed,
    PoliciesStay,
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub operation: &'static str,
    /// What moto does.
    pub moto: &'static str,
    /// What AWS does.
    pub aws: &'static str,
    /// Why it is harmless, or how the test handles it.
    pub allowed: &'static str,
}

impl Deviation {
    pub const ALL: [Self; 8] = [
        Self::NoTasks,
        Self::NoInstances,
        Self::NamespaceIgnored,
        Self::ConfigurationDropped,
        Self::DeploymentStays,
        Self::InactiveAtOnce,
        Self::InactiveListed,
        Self::PoliciesStay,
    ];

    pub fn row(self) -> Row {
        match self {
            Self::NoTasks => Row {
                operation: "ecs:CreateService",
                moto: "starts no task; `runningCount` is what `MOTO_ECS_SERVICE_RUNNING` says",
                aws: "starts `desiredCount` tasks",
                allowed: "The test sets the variable to 1, so that a rollout counts as completed.",
            },
            Self::NoInstances => Row {
                operation: "servicediscovery:ListInstances",
                moto: "is empty: nothing is registered",
                aws: "ECS registers each task",
                allowed: "No location answers, so codeloc publishes none: `codeloc apply` ends at its time limit with exit \
                          code 1, and the plan keeps one later step, the workspace entry.",
            },
            Self::NamespaceIgnored => Row {
                operation: "servicediscovery:ListServices",
                moto: "ignores the filter by namespace",
                aws: "lists one namespace",
                allowed: "codeloc sees services of other namespaces and ignores them, because they lack the \
                          deployment's tag.",
            },
            Self::ConfigurationDropped => Row {
                operation: "ecs:CreateService",
                moto: "drops `deploymentConfiguration` and `enableECSManagedTags`",
                aws: "keeps them",
                allowed: "codeloc sees the drift and sends the values again with UpdateService, which moto keeps: one more \
                          call for each service, and none after that.",
            },
            Self::DeploymentStays => Row {
                operation: "ecs:UpdateService",
                moto: "leaves the old task definition in `deployments`",
                aws: "starts a new ECS deployment",
                allowed: "codeloc reads the desired task definition of a service from its `taskDefinition`, which \
                          moto changes.",
            },
            Self::InactiveAtOnce => Row {
                operation: "ecs:DeleteService",
                moto: "makes the service INACTIVE at once",
                aws: "drains it first",
                allowed: "A deletion takes one reconcile less. Tests on localcloud check the wait for the end of \
                          DRAINING.",
            },
            Self::InactiveListed => Row {
                operation: "ecs:ListServices",
                moto: "still names services that are INACTIVE",
                aws: "names services that are not INACTIVE",
                allowed: "codeloc treats an INACTIVE service as absent. AWS also describes such services for a while.",
            },
            Self::PoliciesStay => Row {
                operation: "application-autoscaling:DeregisterScalableTarget",
                moto: "leaves the target's policies behind",
                aws: "deletes them with the target",
                allowed: "Policies without a target have no effect, and codeloc reads no policies if there is no \
                          target.",
            },
        }
    }
}

/// Whether the test found each deviation.
#[derive(Debug, Default)]
pub struct Found(BTreeMap<Deviation, bool>);

impl Found {
    pub fn note(&mut self, deviation: Deviation, there: bool) {
        self.0.insert(deviation, there);
    }

    /// Deviations that no longer exist, or that the test did not check.
    pub fn outdated(&self) -> Vec<String> {
        let outdated = |deviation: &Deviation| {
            let Row { operation, moto, .. } = deviation.row();
            match self.0.get(deviation) {
                Some(true) => None,
                Some(false) => Some(format!(
                    "{operation} no longer deviates ({moto}): remove {deviation:?} and the code that handles it"
                )),
                None => Some(format!("not checked: {operation} {moto}")),
            }
        };
        Deviation::ALL.iter().filter_map(outdated).collect()
    }
}

/// The table for the docs.
pub fn table() -> String {
    let line = |deviation: Deviation| {
        let Row { operation, moto, aws, allowed } = deviation.row();
        format!("| `{operation}` | {moto} | {aws} | {allowed} |\n")
    };
    let head = "| Operation | moto | AWS | What follows |\n|---|---|---|---|\n".to_owned();
    head + &Deviation::ALL.map(line).concat()
}
