from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from flwr_decaf.app.quick_imports import quick_imports
with quick_imports():
    import flwr_datasets.partitioner
assert "scipy.stats" not in sys.modules
import seaborn
for _ in range(2):
    assert seaborn.heatmap.__module__ == "seaborn.matrix"
    first = sys.modules["seaborn"]
    assert seaborn.__version__ == first.__version__
    assert sys.modules["seaborn"] is first
assert "scipy.stats" in sys.modules
from flwr_datasets.visualization.heatmap_plot import sns
assert sns.heatmap is sys.modules["seaborn"].heatmap
"""


def test_a_module_for_plots_is_executed_when_it_is_used():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
