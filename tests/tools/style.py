#!/usr/bin/env python3
"""Find phrases that this project avoids: `style.py [FILE_OR_FOLDER...]`. docs/style.md has the rules.

It always checks the hand-written documentation, and the arguments in addition. In Markdown it reads prose and skips code
blocks, inline code and generated text, whose source is Rust. In Rust it reads string literals and doc comments. It finds
old names everywhere. A comment `style: ok: REASON` on the same line or on the line above allows an exception.

Exit code 1: it found at least one phrase.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")

NAME_THE_ACTOR = "name the actor: you, codeloc, another process, another AWS user"
ARCHAIC = "not everyday English"
OPENER = "start the sentence with its subject"
ONE_TERM = "one term for one thing"

# Regular expression (a space stands for any white space), suggestion, reason. Case is ignored, except where a pattern begins with (?-i:.
PHRASES: tuple[tuple[str, str, str], ...] = (
    # Openers.
    (r"(?-i:\bOf) (?!course)[a-z]", "put the subject first", OPENER),
    (r"(?-i:\bSo) (?!far|that)[a-z]", "'therefore', or join the two clauses", OPENER),
    (r"(?-i:\bWhere) (?!to\b|it runs|it is)[a-z]", "'if' or 'when', after the main clause", OPENER),
    (r"(?-i:\bWhoever)", "'anyone who', or name the actor", OPENER),
    # Nouns made of clauses.
    (r"\bwhat (?:is|was) (?:live|wanted|there|told|left|needed|ours|known|said|made|seen|given|meant|waited)\b(?! for\?|\?)",
     "a noun: the observed state, the desired state, the message", "a clause is not a name"),
    (r"\bwhat of\b", "a noun", "a clause is not a name"),
    (r"\bof which\b", "'whose', 'that has', or two sentences", ARCHAIC),
    (r"\bwhereof|\bthereof|\bwherein|\bthereby|\bthereupon", "two sentences", ARCHAIC),
    # Actors.
    (r"\bwhoever\b", "'anyone who'", NAME_THE_ACTOR),
    (r"\bnobody\b", "'no process', 'no one'", NAME_THE_ACTOR),
    (r"\bsomebody\b", "'another process', 'a person', 'you'", NAME_THE_ACTOR),
    (r"\bstrangers?\b", "'resources of another owner'", NAME_THE_ACTOR),
    (r"\b(?:is|are|was|were|be|being|only|not|and|been) told\b|\btold of\b|\btold (?:without|by)\b", "'reported', 'shown'",
     NAME_THE_ACTOR),
    (r"\bunless told\b|\bwhen told\b|\btold otherwise\b", "'by default'", NAME_THE_ACTOR),
    (r"\blook(?:s|ed|ing)? at (?:it|them|all|everything|once|now|every|again|by|with|before)\b", "'reconcile', 'read', 'check'",
     "say what codeloc does"),
    (r"\blook(?:s|ed|ing)? into\b", "'inspect'", "say what codeloc does"),
    (r"\btakes? care of\b|\btaken care of\b", "'reconcile'", ONE_TERM),
    (r"\b(?:takes?|took|taken|taking) (?:it |them )?away\b", "'remove', 'delete'", "say what codeloc does"),
    (r"\b(?:is|are) (?:not there|there already)\b", "'does not exist', 'already exists'", "a verb that says what happens"),
    (r"\b(?:one|of those) that (?:is|are) there\b", "'an existing X'", "a verb that says what happens"),
    (r"\bwhatever (?:becomes|became|happens|happened)\b", "'regardless of'", ARCHAIC),
    (r"\bunasked\b", "'without confirmation'", NAME_THE_ACTOR),
    # Words.
    (r"\banew\b", "'again'", ARCHAIC),
    (r"\bafresh\b", "'again', 'from AWS'", ARCHAIC),
    (r"\bat present\b", "'now', 'currently', or leave it out", ARCHAIC),
    (r"\bfor ever\b", "'forever', 'permanently'", ARCHAIC),
    (r"\bmend(?:s|ed|ing)?\b", "'fix'", ARCHAIC),
    (r"\breckon(?:s|ed|ing)?\b", "'compute', 'estimate'", ARCHAIC),
    (r"\bbegun\b", "'started'", ARCHAIC),
    (r"\bbeside\b", "'next to', 'together with', 'in addition to'", ARCHAIC),
    (r"\bbut for\b", "'except'", ARCHAIC),
    (r"\bfor want of\b", "'because X is missing'", ARCHAIC),
    (r"\bas (?:it|they) stands?\b", "'unchanged'", ARCHAIC),
    (r"\bby (?:its|their) form\b", "'malformed', 'the form of'", ARCHAIC),
    (r"\bbefore the present\b|\bthe present (?:one|commit|revision)\b", "'current', 'previous'", ARCHAIC),
    (r"\bno more (?:does|do|is|are)\b", "'neither'", ARCHAIC),
    (r"(?<!there )\bis no (?!longer|more|less|better|such|different|need)[a-z]", "'is not a'", ARCHAIC),
    (r"\b(?:is|are|was|were) to be\b", "'must be', 'codeloc will'", ARCHAIC),
    (r"\bcom(?:e|es|ing) to be\b|\bcame to be\b", "'becomes', 'is created'", ARCHAIC),
    (r"\bof (?:its|their|one's) own\b", "'its own X'", ARCHAIC),
    (r"\bof ours\b", "'owned by this deployment'", NAME_THE_ACTOR),
    (r"\b(?:on|in) (?:its|their|the) way\b(?! to)", "'in progress', 'in flight'", "name the state"),
    (r"\bgoes (?:first|on|before|backwards|like|with|away)\b", "'continues', 'runs first', 'is deleted'", "a verb that says what happens"),
    (r"\bstands? (?:in|by|beside|for|on|down)\b", "'is in', 'waits as standby', 'means'", "a verb that says what happens"),
    (r"\blies (?:in|at|below|under|beside|with)\b", "'is in'", "a verb that says what happens"),
    (r"\blast words\b", "'failure log', 'last log lines'", ONE_TERM),
    (r"\bput(?:s|ting)? right\b", "'repair'", ONE_TERM),
    (r"\btried again\b", "'codeloc retries'", NAME_THE_ACTOR),
    (r"\bso (?:many|long|much)\b(?! (?:as|that))", "the number or the name of the value", "give the value"),
    (r"\b(?:is|are|was|were) (?:not )?well\b(?! (?:known|below|above))", "'healthy', 'in sync'", ONE_TERM),
    (r"\b(?:does|do|did) not pass\b", "'is invalid'", ONE_TERM),
    # Terms.
    (r"\bas wanted\b", "'in sync'", ONE_TERM),
    (r"\b(?:the |are |is )wanted\b", "'desired'", ONE_TERM),
    (r"\b(?:un)?brak(?:e|es|ed|ing)\b", "'prune guard', 'prune blocked'", ONE_TERM),
    (r"\bglanc(?:e|es|ed|ing)\b|\bglimpses?\b", "'service refresh', 'refresh'", ONE_TERM),
    (r"\bkept otherwise\b|\bin other words than\b", "'AWS stores it differently'", ONE_TERM),
    (r"\btrouble\b(?!shoot)", "'fault'", ONE_TERM),
    (r"\bpok(?:e|es|ed|ing)\b", "'trigger'", ONE_TERM),
    (r"\bstrays?\b", "'invalid folder'", ONE_TERM),
)

# Names from before the first release: old, new. They are found in code blocks and in inline code too.
RENAMED: tuple[tuple[str, str], ...] = (
    (r"\bNotOurs\b", "NotOwned"),
    (r"\bAsWanted\b|\bAS WANTED\b", "UpToDate, LAST SYNCED"),
    (r"\bLeaseTaken\b", "LeaseAcquired"),
    (r"\b(?:Codeloc)?PruneBraked\b|_prune_braked_", "PruneBlocked, _prune_blocked_"),
    (r"/v1/repositories\b", "/v1/locations"),
    (r"\bcodeloc_repository_", "codeloc_location_"),
    (r"\bcodeloc:repository\b", "codeloc:location"),
)

MARKER = re.compile(r"style: ok\b:?(?P<reason>[^\n]*)")
# What separates two texts: no phrase matches across it.
WALL = "\x01"
RUST = re.compile(
    r"""
    (?P<doc>//[/!][^\n]*)
  | //[^\n]*
  | /\*.*?\*/
  | b?r(?P<hashes>\#*)"(?P<raw>.*?)"(?P=hashes)
  | "(?P<text>(?:[^"\\]|\\.)*)"
  | '(?:[^'\\\n]|\\[^\n]*?)'
    """,
    re.VERBOSE | re.DOTALL,
)
# Generated text, comments, fenced code, inline code, and the targets of links.
NOT_PROSE = re.compile(
    r"<!-- Generated:.*\Z|<!-- deviations:.*?<!-- end -->|<!--.*?-->|^ *```.*?^ *```[^\n]*$|(`+)(?!`).*?(?<!`)\1(?!`)|\]\([^)\n]*\)",
    re.DOTALL | re.MULTILINE,
)
INDENTED_CODE = re.compile(r"(?<=\n\n)(?: {4}|\t)[^\n]*(?:\n(?: {4}|\t)[^\n]*)*")


@dataclass(frozen=True)
class Finding:
    path: str
    line: int
    found: str
    suggestion: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: '{self.found}': {self.suggestion}"


def compiled(pattern: str) -> re.Pattern[str]:
    """A space in a pattern matches several: a phrase may be wrapped and indented. Lookbehinds need a fixed width."""
    spaced = re.sub(r"\(\?<[^)]*\)| ", lambda match: " +" if match[0] == " " else match[0], pattern)
    return re.compile(spaced, re.IGNORECASE)


TABLE = [(compiled(pattern), f"{suggestion} ({reason})") for pattern, suggestion, reason in PHRASES]
NAMES = [(re.compile(pattern), new) for pattern, new in RENAMED]
# Most texts contain no phrase: one search decides that. Each phrase starts with a word, so the search tries no other position.
ANY = re.compile(r"\b(?=\w)(?:" + "|".join(f"(?:{pattern.pattern})" for pattern, _ in TABLE) + ")", re.IGNORECASE)


def blank(text: str) -> str:
    """As many characters, in the same lines."""
    return re.sub(r"[^\n]", WALL, text)


def markdown(source: str) -> str:
    """The prose, each character where it was."""
    prose = NOT_PROSE.sub(lambda match: blank(match[0]), source)
    # Phrases end with their paragraph, cell, heading or list item.
    prose = prose.replace("\n\n", f"\n{WALL}")
    prose = re.sub(r"^[ ]*(?:[-*#>]+|\d+\.)(?= )", lambda match: WALL * len(match[0]), prose, flags=re.MULTILINE)
    return prose.replace("|", WALL).replace("\n", " ")


def rust(source: str) -> Iterator[tuple[int, str]]:
    """Each string literal, and each block of doc comments, with its offset."""
    block_start, block_end, block = 0, -1, ""
    for match in RUST.finditer(source):
        if match["doc"] is not None:
            text = "   " + match["doc"][3:]
            between = source[block_end : match.start()]
            if block and between.strip() == "" and between.count("\n") == 1:
                block += between + text
            else:
                if block:
                    yield block_start, markdown(block)
                block_start, block = match.start(), text
            block_end = match.end()
        elif match["text"] is not None:
            # A line break that is written ends a text; one that continues the literal does not.
            text = re.sub(r"\\\n", " \n", match["text"])
            yield match.start("text"), markdown(re.sub(r"\\.", WALL * 2, text))
        elif match["raw"] is not None:
            yield match.start("raw"), markdown(match["raw"])
    if block:
        yield block_start, markdown(block)


def texts(path: Path, source: str) -> Iterator[tuple[int, str]]:
    if path.suffix == ".rs":
        yield from rust(source)
    elif path.suffix == ".md":
        yield 0, markdown(INDENTED_CODE.sub(lambda match: blank(match[0]), source))
    else:
        yield 0, markdown(source)


def check(path: Path, name: str, source: str) -> list[Finding]:
    """Everything that is wrong in one file, in the order of its lines."""
    findings = []
    allowed = set()

    def line_of(offset: int) -> int:
        return source.count("\n", 0, offset) + 1

    for marker in MARKER.finditer(source):
        line = line_of(marker.start())
        if re.search(r"\w{3}", marker["reason"].replace("-->", "")):
            allowed |= {line, line + 1}
        else:
            findings.append(Finding(name, line, marker[0].strip(), "give a reason: 'style: ok: REASON'"))
    for start, text in texts(path, source):
        if not ANY.search(text):
            continue
        for pattern, suggestion in TABLE:
            for match in pattern.finditer(text):
                found = re.sub(r" +", " ", match[0]).strip()
                findings.append(Finding(name, line_of(start + match.start()), found, suggestion))
    if not is_generated(source):
        for pattern, new in NAMES:
            for match in pattern.finditer(source):
                findings.append(Finding(name, line_of(match.start()), match[0], f"{new} (renamed)"))
    kept = [finding for finding in findings if finding.line not in allowed or "give a reason" in finding.suggestion]
    return sorted(set(kept), key=lambda finding: finding.line)


def is_generated(source: str) -> bool:
    return source.startswith("<!-- Generated:")


def files(arguments: list[str]) -> Iterator[Path]:
    for argument in arguments:
        path = ROOT / argument
        if path.is_dir():
            found = (file for suffix in ("md", "rs") for file in path.rglob(f"*.{suffix}"))
            yield from sorted(file for file in found if "target" not in file.relative_to(ROOT).parts)
        elif path.is_file():
            yield path
        else:
            sys.exit(f"style.py: {argument} is not a file or a folder")


def main(arguments: list[str]) -> int:
    findings = []
    count = 0
    for path in files([*DOCUMENTS, *arguments]):
        count += 1
        findings += check(path, str(path.relative_to(ROOT)), path.read_text())
    for finding in findings:
        print(finding)
    if findings:
        print(f"{len(findings)} phrases in {count} files; docs/style.md has the rules and how to allow an exception", file=sys.stderr)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
