# Checks configuration files before Snakemake reads them.
import os

from snakemake.exceptions import WorkflowError

from slidesparse.errors import SlideSparseError
from slidesparse.plan import text

try:
    text.check_files([*filter(os.path.exists, ["config/config.yaml"]), *workflow.overwrite_configfiles])
except SlideSparseError as error:
    raise WorkflowError(str(error))
