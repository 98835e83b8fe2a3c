"""Options of the tests, and their order: runs of the workflow first, so that processes that share them end together."""


def pytest_addoption(parser):
    parser.addoption(
        "--flash-attention",
        type=int,
        choices=(2, 3),
        help="version of FlashAttention that engines of tests/gpu run, instead of the one that vLLM takes on this GPU",
    )


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("workflow") is None)


def pytest_terminal_summary(terminalreporter):
    """Print the tables that tests recorded, as `record_property("table", text)`."""
    for report in terminalreporter.getreports("passed"):
        for name, text in report.user_properties:
            if name == "table":
                terminalreporter.section(report.nodeid.rpartition("::")[2])
                terminalreporter.write_line(text)
