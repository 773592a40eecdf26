from codec.cli.table import align


def test_columns_are_as_wide_as_they_need_to_be_with_nothing_after_the_last():
    lines = [("name", "where", "Hz"), ("a", "hub", "16000"), ("a long name", "", "")]
    assert align(lines, left=2).splitlines() == [
        "name         where     Hz",
        "a            hub    16000",
        "a long name",
    ]
    assert align([("5", "100"), ("12", "7")], left=0) == " 5  100\n12    7"
