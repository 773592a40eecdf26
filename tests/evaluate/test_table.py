from rich.console import Console

from codec.evaluate import markdown_table, rich_table


def test_a_markdown_table_is_aligned_to_the_right() -> None:
    assert markdown_table(["a", "long"], [["1", "2"], ["333", "4"]]) == (
        "|   a | long |\n"  #
        "| --: | ---: |\n"
        "|   1 |    2 |\n"
        "| 333 |    4 |"
    )


def test_a_markdown_table_without_rows_has_its_headings() -> None:
    assert markdown_table(["a"], []) == "|  a |\n| -: |"


def test_a_rich_table_shows_title_headings_and_cells() -> None:
    console = Console(width=60)
    with console.capture() as capture:
        console.print(rich_table(["clip", "bit/s"], [["one.flac", "3012"]], title="Speech"))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["Speech"] in lines
    assert ["clip", "bit/s"] in lines
    assert ["one.flac", "3012"] in lines
