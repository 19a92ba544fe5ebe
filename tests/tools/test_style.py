"""Tests of style.py: `python3 -m unittest discover -s tests/tools`."""

from __future__ import annotations

import time
import unittest
from pathlib import Path

import style


def found(source: str, name: str = "page.md") -> list[tuple[int, str]]:
    """Line and phrase of everything that is found."""
    return [(finding.line, finding.found) for finding in style.check(Path(name), name, source)]


class Markdown(unittest.TestCase):
    def test_a_phrase_is_found_with_its_line(self) -> None:
        self.assertEqual(found("One.\n\nIt is made anew.\n"), [(3, "anew")])

    def test_a_phrase_that_is_wrapped_is_found(self) -> None:
        self.assertEqual(found("It stays for\never.\n"), [(1, "for ever")])

    def test_a_phrase_does_not_cross_paragraphs_cells_or_items(self) -> None:
        self.assertEqual(found("It stays for\n\never.\n\n| for | ever |\n\n- for\n- ever\n"), [])

    def test_code_links_comments_and_generated_text_are_skipped(self) -> None:
        for text in (
            "`anew`",
            "``an`anew``",
            "```text\nanew\n```",
            "Run:\n\n    anew --now",
            "[page](anew.md)",
            "<!-- anew -->",
            "<!-- Generated: by a test -->\n\nanew",
            "<!-- deviations: moto -->\nanew\n<!-- end -->",
        ):
            self.assertEqual(found(text + "\n"), [], text)

    def test_prose_after_code_is_read(self) -> None:
        self.assertEqual(found("```\ncode\n```\n\nanew\n"), [(5, "anew")])

    def test_old_names_are_found_in_code_too(self) -> None:
        self.assertEqual(found("```\nGET /v1/repositories\n```\n"), [(2, "/v1/repositories")])
        self.assertEqual(found("The reason `NotOurs`.\n"), [(1, "NotOurs")])

    def test_openers_are_found_at_the_start_of_a_sentence_only(self) -> None:
        self.assertEqual([line for line, _ in found("Of all tasks one runs.\n")], [1])
        self.assertEqual(found("It knows the place of each task. Of course.\n"), [])
        self.assertEqual(found("| What | Where | Run |\n"), [])


class Rust(unittest.TestCase):
    def test_strings_and_doc_comments_are_read(self) -> None:
        source = '//! anew\n\n/// One line.\n/// anew\nfn f() { g("anew", r#"anew"#); }\n'
        self.assertEqual([line for line, _ in found(source, "file.rs")], [1, 4, 5])

    def test_code_and_ordinary_comments_are_not_read(self) -> None:
        source = "// anew\nlet anew = 'a'; /* anew */\nlet life: &'static str = x;\n"
        self.assertEqual(found(source, "file.rs"), [])

    def test_a_string_that_continues_on_the_next_line_is_one_text(self) -> None:
        self.assertEqual(found('let s = "it stays for \\\n    ever";\n', "file.rs"), [(1, "for ever")])

    def test_two_strings_are_two_texts(self) -> None:
        self.assertEqual(found('f("for", "ever");\n', "file.rs"), [])

    def test_escapes_do_not_end_a_string(self) -> None:
        self.assertEqual(found('f("a \\" anew"); let anew = 1;\n', "file.rs"), [(1, "anew")])


class Marker(unittest.TestCase):
    def test_a_reason_allows_the_same_line_and_the_next(self) -> None:
        self.assertEqual(found("anew <!-- style: ok: quotes a poem -->\n"), [])
        self.assertEqual(found('// style: ok: quotes a poem\nf("anew");\n', "file.rs"), [])

    def test_it_allows_no_other_line(self) -> None:
        self.assertEqual(found("<!-- style: ok: quotes a poem -->\n\nanew\n"), [(3, "anew")])

    def test_it_needs_a_reason(self) -> None:
        self.assertEqual([line for line, _ in found("anew <!-- style: ok -->\n")], [1, 1])


class Everything(unittest.TestCase):
    def test_the_table_suggests_something_for_each_phrase(self) -> None:
        for pattern, suggestion, reason in style.PHRASES:
            self.assertTrue(suggestion and reason, pattern)

    def test_the_whole_source_takes_less_than_three_seconds(self) -> None:
        start = time.process_time()
        for path in style.files([*style.DOCUMENTS, "controller", "crds"]):
            style.check(path, path.name, path.read_text())
        self.assertLess(time.process_time() - start, 3)


if __name__ == "__main__":
    unittest.main()
