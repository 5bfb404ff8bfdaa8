"""ditscale: scaling laws for text-to-image Diffusion Transformers, from isoFLOP studies that you run yourself.

The package is layered; a file imports only from its own floor or below (tests/test_floors.py enforces it):

    5  cli, sweep, report/           verbs; Hydra multirun; figures and the HTML page
       rehearsal/                    a study with known losses and faults
    4  launch/                       starting runs and watching them
    3  train/  evaluate/             the loop; losses, bounds, likelihood, FID and samples
    2  model/  diffusion/  data/     torch: transformers, rectified flow, data sets
    1  plan/   laws/   store/        no torch: grids, fits and forecasts, HDF5
    0  units   config  flops  naming  files  errors
"""

__version__ = "0.1.0"
