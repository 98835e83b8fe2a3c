"""Where the files of a source lie, and what to say of a root that is the wrong folder, or of files in wrong places."""

import os
import re
from pathlib import Path

from slidesparse.machine.naming import gpu_token
from slidesparse.plan.backends import STAGES
from slidesparse.plan.key import is_pattern
from slidesparse.report.sources import published, tidy
from slidesparse.report.sources.rows import HARDWARE
from slidesparse.report.tables.columns import PUBLISHED
from slidesparse.report.tables.gather import hardware_directories

LAYOUTS = (published.THROUGHPUT, published.KERNELS, published.LOGS, tidy.FOLDER)
"""Folders that lie in a root of others' files."""

DEEP, MANY, SHOWN = 8, 2000, 3
"""Levels and folders below a root that are searched, and folders that a sentence names."""

MOST_STRAYS = 50
"""Tables without a place that are named."""

LIKE_A_KEY = re.compile(r".+_(cc|sm)[0-9.]+_.+", re.IGNORECASE)
"""A folder that was meant to be named by its hardware."""

TABLES = (".csv", ".tsv", ".txt", ".xls", ".xlsx", ".ods", ".parquet")
"""Endings of tables, of which reports read `.csv`."""


def keys(root):
    """Hardware keys of which a root has something in any layout."""
    return {*hardware_directories(root), *published.hardware_keys(root), *tidy.hardware_keys(root)}


def folders(root):
    """Folders below a root, those above first, at most `MANY` of at most `DEEP` levels. Links are not followed."""
    level, seen = [Path(root)], 0
    for _ in range(DEEP):
        below = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    below += sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
            except OSError:
                continue
            if seen + len(below) >= MANY:
                break
        yield from below[: MANY - seen]
        seen += len(below)
        if seen >= MANY:
            return
        level = below


def nothing(root):
    """A sentence on a root that holds nothing that could be reported, with the folder that may be meant; else None."""
    path = Path(root)
    try:
        if not os.path.isdir(path):
            return f"{root} {'is no folder' if os.path.exists(path) else 'does not exist'}"
        if not any(path.iterdir()):
            return f"{root} is empty"
    except OSError as error:
        return f"{root} cannot be read: {error.strerror}"
    if keys(root):
        return None
    below = list(folders(root))
    throughput = sum(is_throughput(folder) for folder in (path, *below))
    kernels = sum(is_search(folder) for folder in (path, *below))
    found = f"found {counted(kernels, 'kernel')}, {counted(throughput, 'throughput')}"
    above = root_above(path.absolute())
    if above:
        return f"{found}, under {root}: give {above}, the folder above"
    roots = {folder for folder in below if keys(folder)}
    roots = [folder for folder in below if folder in roots and not roots & set(folder.parents)]
    if roots:
        more = f" and {len(roots) - SHOWN} more" if len(roots) > SHOWN else ""
        return f"{found}, under {root}: give {', '.join(map(str, roots[:SHOWN]))}{more}, below it"
    wrong = misplaced(root)
    if wrong:
        return wrong[0]
    if kernels or throughput:
        where = f"{published.THROUGHPUT}/{{stage}}/ and {published.KERNELS}/{{library}}/{published.SEARCHES}/"
        return f"{found}, under {root}, but none where they belong, in {where}"
    return f"{found} and no hardware key under {root}"


def counted(n, kind):
    """`2 kernel folders`."""
    return f"{n or 'no'} {kind} folder{'' if n == 1 or not n else 's'}"


def is_throughput(folder):
    """Whether a folder is named as those of throughput files."""
    return published.THROUGHPUT_FOLDER.fullmatch(folder.name) is not None


def is_search(folder):
    """Whether a folder of one hardware key has GEMM searches."""
    return folder.parent.name == published.SEARCHES and HARDWARE.fullmatch(folder.name) is not None


def root_above(path):
    """The root in which an absolute path lies, told from the names of its folders; None if there is none."""
    for folder in (path, *path.parents):
        if (folder.name in LAYOUTS or HARDWARE.fullmatch(folder.name)) and keys(folder.parent):
            return folder.parent
    return None


def plain_files(root):
    """Sentences on plain files of a root that have the name and the place of a folder of one hardware key."""
    root = Path(root)
    found = [*root.glob("*"), *root.glob(f"{tidy.FOLDER}/*")]
    for base in published.bases(root, published.THROUGHPUT):
        found += base.glob("*/*")
    for base in published.bases(root, published.KERNELS):
        found += base.glob(f"*/{published.SEARCHES}/*")
    found = sorted(path for path in found if os.path.isfile(path) and (HARDWARE.fullmatch(path.name) or keyed(path)))
    return [f"{path} is not read: it is a file, where a folder of one hardware key would be" for path in found]


def misplaced(root):
    """Sentences on files and folders of a root that belong to no hardware key, so that no report has them."""
    root = Path(root)
    sentences = plain_files(root)
    for folder in (root, root / tidy.FOLDER, *sorted(root.glob(f"{tidy.FOLDER}/*"))):
        if folder.parent.name == tidy.FOLDER and HARDWARE.fullmatch(folder.name):
            continue
        sentences += [
            f"{folder / f'{name}.csv'} is not read: a tidy table belongs in {root / tidy.FOLDER}/{{hardware key}}/"
            for name in tidy.TABLES
            if os.path.isfile(folder / f"{name}.csv")
        ]
    named = []  # folders whose name should be a hardware key
    for base in published.bases(root, published.THROUGHPUT):
        for stage in filter(Path.is_dir, sorted(base.glob("*"))):
            if stage.name in PUBLISHED:
                wrong = [folder for folder in sorted(stage.glob("*")) if os.path.isdir(folder) and not keyed(folder)]
                sentences += [bad_name(folder, "RTX4090_cc89_INT8_py312_cu129_x86_64") for folder in wrong]
            else:
                sentences.append(f"{stage} is not read: its name is neither prefill nor decode")
    for base in published.bases(root, published.KERNELS):
        named += sorted(base.glob(f"*/{published.SEARCHES}/*"))
    named += [folder for folder in sorted(root.glob("*")) if LIKE_A_KEY.fullmatch(folder.name) and holds_stages(folder)]
    sentences += [bad_name(folder) for folder in named if os.path.isdir(folder) and not HARDWARE.fullmatch(folder.name)]
    gpus = {key.partition("_cc")[0] for key in keys(root)}
    sentences += [
        f"{path} is not read: a status file is {published.LOGS}/{{GPU}}/bitnet_bench_*_status.json, and its GPU is"
        f" {' or '.join(sorted(gpus)) or 'that of a hardware key'}"
        for path, is_read in published.status_files(root)
        if not (is_read and path.parent.name in gpus)
    ][:MOST_STRAYS]
    return sentences + other_case(root) + elsewhere(root)


def other_case(root):
    """Sentences on folders whose names differ from what a layout reads by small and capital letters only."""
    known = {name.lower(): name for name in LAYOUTS}
    sentences = [
        f"{folder} is not read: it is written {known[folder.name.lower()]}"
        for folder in sorted(root.glob("*"))
        if folder.name.lower() in known and folder.name not in LAYOUTS and os.path.isdir(folder)
    ]
    alike = {}
    for key in sorted(keys(root)):
        alike.setdefault(key.lower(), []).append(key)
    sentences += [
        f"{root}: {' and '.join(same)} differ in small and capital letters only, so each is hardware of its own: give"
        " both one name"
        for same in alike.values()
        if len(same) > 1
    ]
    return sentences


def keyed(folder):
    """Whether the name of a throughput folder has a hardware key."""
    match = published.THROUGHPUT_FOLDER.fullmatch(folder.name)
    return match is not None and HARDWARE.fullmatch(f"{match['gpu']}_{match['cc']}_{match['rest']}") is not None


def holds_stages(folder):
    """Whether a folder has the folder of a stage."""
    return any(os.path.isdir(folder / stage) for stage in STAGES)


def bad_name(folder, such="RTX4090_cc89_py312_cu129_x86_64"):
    """A sentence on a folder that should be named by its hardware. such: a name that would do."""
    if " " not in folder.name:
        what = "a hardware key with the type" if "INT8" in such else "a hardware key"
        return f"{folder} is not read: its name is not {what}, such as {such}"
    gpu, cc, rest = folder.name.partition("_cc")
    short = gpu_token(gpu) if re.search(r"NVIDIA|RTX|GTX", gpu) else gpu.replace(" ", "")
    better = f" {short}{cc}{rest.replace(' ', '')}" if cc else ""
    return f"{folder} is not read: its name has a space, so it is no hardware key: rename it{better}"


def strays(source, hardware):
    """Sentences on tables in folders of one hardware key that no layout reads, by their name or place."""
    root = Path(source.root)
    inside = [root / hardware / stage for stage in STAGES] + [root / tidy.FOLDER / hardware]
    inside += [folder for key, _, _, folder in published.throughput_folders(root) if key == hardware]
    inside += [folder for key, _, folder in published.kernel_folders(root) if key == hardware]
    own = root / hardware
    wrong = [path for path in sorted(own.glob("*")) if path.name.lower() in STAGES and path.name not in STAGES]
    sentences = [f"{path} is not read: a stage is written {path.name.lower()}" for path in wrong if os.path.isdir(path)]
    read = source.read | {path for path, _ in source.files}
    said = "\n".join(source.refused)
    for folder in inside:
        for path in sorted(folder.rglob("*")):
            name = path.name.lower()
            table = (".csv" in name or name.endswith(TABLES)) and published.SQUARE not in name
            if table and str(path) not in read and str(path) not in said and os.path.isfile(path):
                sentences.append(f"{path} is not read: {why_not(path, own)}")
    more = len(sentences) - MOST_STRAYS
    return sentences[:MOST_STRAYS] + ([f"{root}: {more} more tables are not read"] if more > 0 else [])


def why_not(path, own):
    """Why a table of one hardware key has no place. own: the folder of this key in our layout."""
    if ".csv" not in path.name.lower():
        return "tables are .csv files"
    folders = path.relative_to(own).parts[:-1] if own in path.parents else ()
    if len(folders) == 5 and not is_pattern(folders[-1]):
        return f"the folder {folders[-1]!r:.80} is no pattern: there are dense and 2_L with an even L from 4 on"
    return "no table has this name in this place"


def elsewhere(root):
    """Sentences on folders of published files that a root lacks where they belong and has below, and on deep keys."""
    kinds = {published.THROUGHPUT: published.throughput_folders, published.KERNELS: published.kernel_folders}
    there = {name: bool(published.bases(root, name)) for name in kinds}
    lacking = {name for name, found in there.items() if not found}
    found = [folder for folder in folders(root) if folder.name in lacking] if lacking else []
    known = keys(root)
    deep = [
        folder
        for folder in folders(root)
        if folder.parent != root
        and not known & set(folder.relative_to(root).parts[:1])
        and HARDWARE.fullmatch(folder.name)
        and holds_stages(folder)
    ]
    for key in sorted(known):
        deep += [
            path.parent for stage in STAGES for path in sorted((root / key).glob(f"*/{stage}")) if os.path.isdir(path)
        ]
    deep = [folder for folder in dict.fromkeys(deep) if folder.name not in (*STAGES, "tuning", "report")]
    return [f"{folder} is not read: it belongs in {root}" for folder in [*found[:SHOWN], *deep[:SHOWN]]]
