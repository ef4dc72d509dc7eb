"""The picture of a use case: right, well formed, readable by who cannot see it, and without anybody else's code."""

from xml.etree import ElementTree

import pytest

from apps.saga.definition import (
    COMPENSABLE,
    PIVOT,
    RETRIABLE,
    AskStep,
    CallStep,
    Definition,
    Kind,
    LocalStep,
    Step,
    registered,
)
from apps.saga.diagram import mermaid, svg

SVG = "{http://www.w3.org/2000/svg}"


def step(
    name: str, kind: Kind = COMPENSABLE, shape: type[Step] = LocalStep, partner: str = "", doc: str = "Does it."
) -> Step:
    made: Step = type("Made", (shape,), {"name": name, "kind": kind, "partner": partner, "__doc__": doc})()
    return made


JOURNEY = Definition(
    "orders.toy",
    3,
    (
        step("reserve_tickets"),
        step("ask_bank", shape=AskStep, partner="bank"),
        step("pay", PIVOT, CallStep, "the tax authority of the state of São Paulo"),
        step("confirm", RETRIABLE),
    ),
)


class TestMermaid:
    def test_has_steps_arrows_undo_and_pivot(self) -> None:
        assert mermaid(JOURNEY).splitlines() == [
            "flowchart LR",
            "    accTitle: orders.toy version 3",
            "    accDescr: 4 steps: reserve tickets, ask bank, pay, confirm. pay is the pivot: after it the run only goes "
            "forward. Undone, in this order: ask bank, reserve tickets.",
            "    begin((start))",
            '    s0["reserve tickets<br/>compensable · local"]',
            '    s1["ask bank<br/>compensable · asks bank"]',
            '    s2{{"pay<br/>pivot · calls the tax authority of the state of São Paulo"}}',
            '    s3["confirm<br/>retriable · local"]',
            "    done(((completed)))",
            "    begin --> s0 --> s1 --> s2 --> s3 --> done",
            "    undone(((undone)))",
            "    s1 -. undo .-> s0",
            "    s0 -. undo .-> undone",
        ]

    def test_of_what_is_never_undone_shows_no_way_back(self) -> None:
        text = mermaid(Definition("orders.toy", 1, (step("a", PIVOT), step("b", RETRIABLE))))
        assert "undo" not in text

    def test_a_name_cannot_break_out_of_its_box(self) -> None:
        text = mermaid(Definition("orders.toy", 1, (step("a", shape=AskStep, partner='x"] --> y["<b>&amp;'),)))
        assert 's0["a<br/>compensable · asks x&quot;] --&gt; y[&quot;&lt;b&gt;&amp;amp;"]' in text


class TestSvg:
    def texts(self, definition: Definition) -> list[str]:
        return [str(each.text) for each in ElementTree.fromstring(svg(definition)).iter(f"{SVG}text")]

    def test_says_what_it_shows(self) -> None:
        root = ElementTree.fromstring(svg(JOURNEY))
        said = "4 steps: reserve tickets, ask bank, pay, confirm. pay is the pivot"
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"].startswith(f"orders.toy version 3. {said}")
        title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
        assert title is not None
        assert description is not None
        assert title.text == "orders.toy version 3"
        assert str(description.text).startswith(said)

    def test_draws_each_step_once_and_an_undo_for_each_that_has_one(self) -> None:
        texts = self.texts(JOURNEY)
        assert [text for text in texts if text in ("reserve tickets", "ask bank", "pay", "confirm")] == [
            "reserve tickets",
            "ask bank",
            "pay",
            "confirm",
        ]
        assert [text for text in texts if text.startswith("undo ")] == ["undo reserve tickets", "undo ask bank"]
        assert texts.count("pivot") == 2, "the kind in the box, and the word at the line"
        root = ElementTree.fromstring(svg(JOURNEY))
        assert len(list(root.iter(f"{SVG}rect"))) == 4
        forward = [each for each in root.iter(f"{SVG}path") if each.attrib.get("marker-end") == "url(#saga-f)"]
        assert len(forward) == 5

    def test_stands_from_left_to_right_inside_its_frame(self) -> None:
        root = ElementTree.fromstring(svg(JOURNEY))
        lefts = [float(each.attrib["x"]) for each in root.iter(f"{SVG}rect")]
        assert lefts == sorted(set(lefts))
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        assert root.attrib["viewBox"] == f"0 0 {width:g} {height:g}"
        for each in root.iter(f"{SVG}rect"):
            assert 0 <= float(each.attrib["x"]) <= width - float(each.attrib["width"])
        for each in root.iter(f"{SVG}text"):
            assert 0 <= float(each.attrib["x"]) <= width
            assert 0 <= float(each.attrib["y"]) <= height

    def test_has_no_pivot_line_without_a_pivot_and_no_way_back_without_an_undo(self) -> None:
        assert "no way back from here" not in self.texts(Definition("orders.toy", 1, (step("a"),)))
        only = self.texts(Definition("orders.toy", 1, (step("a", RETRIABLE),)))
        assert "undone" not in only

    def test_names_what_it_is_given_and_nothing_more(self) -> None:
        evil = '</title><script>alert("1")</script>&'
        drawn = svg(Definition("orders.toy", 1, (step("a", shape=AskStep, partner=evil, doc=evil),)))
        assert "<script" not in drawn
        ElementTree.fromstring(drawn)

    def test_a_long_name_takes_two_lines_and_is_told_in_full(self) -> None:
        name = "ask_the_tax_authority_of_the_state_of_sao_paulo_for_a_number"
        made = Definition("orders.toy", 1, (step(name),))
        lines = [text for text in self.texts(made) if text in name.replace("_", " ") or text.endswith("…")]
        assert len(lines) >= 2
        assert max(map(len, lines)) <= 28
        assert name.replace("_", " ") in svg(made)

    @pytest.mark.parametrize("definition", registered(), ids=lambda each: each.use_case)
    def test_of_every_use_case_is_well_formed(self, definition: Definition) -> None:
        root = ElementTree.fromstring(svg(definition))
        assert len(list(root.iter(f"{SVG}rect"))) == len(definition.steps)
        assert mermaid(definition).count("\n") > len(definition.steps)
