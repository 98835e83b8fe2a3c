"""The order of tests: runs of the workflow come first, so that processes which share the tests end together."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("workflow") is None)
