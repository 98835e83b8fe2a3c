# Prepares Snakemake's own process, and checks configuration files before Snakemake reads them.
import logging
import os
import sys

from snakemake.exceptions import WorkflowError

if not workflow.modifier.is_main_snakefile():
    raise WorkflowError(
        "SlideSparse runs alone and not as a module of another workflow, because a module has neither its lock nor its"
        " profile: clone its repository and call snakemake there, or from elsewhere with --snakefile"
    )

from slidesparse import program
from slidesparse.errors import SlideSparseError
from slidesparse.plan import key, layers, text

logging.raiseExceptions = False  # a disk on which no log finds room is told once, not with each line
program.interrupt_once()

try:
    program.find_user()
    key.refuse_whole_paths(sys.argv[1:])
    CONFIGURATION = layers.default()
    text.check_files([*filter(os.path.exists, [CONFIGURATION]), *workflow.overwrite_configfiles])
except SlideSparseError as error:
    raise WorkflowError(str(error))
