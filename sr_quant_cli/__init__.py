"""Low-bit image super-resolution: train, quantize, measure, export and run networks.

Everything the command line does can be imported from these packages; each of them only imports from
those below it:

* ``commands``: the commands, as functions;
* ``inference`` and ``training``: running models on pictures, and training them;
* ``lowering``: integer graphs for ONNX Runtime and OpenVINO;
* ``modelfiles``, ``recipe``, ``runtimes``: model files and checkpoints, recipes, running of graphs;
* ``passes``: changes to a whole network, such as inserting quantizers;
* ``methods``: the published quantization methods;
* ``networks``: the networks;
* ``quant``: grids, fake quantization, ranges, quantizers;
* ``data``, ``imaging``, ``metrics``: data sets, picture files, PSNR and SSIM;
* ``system``: processes, devices and files; ``system.reporting`` passes on progress and notes.

Problems that a user can solve are raised as ``errors.SrqError``.
"""

__version__ = "0.1.0"
