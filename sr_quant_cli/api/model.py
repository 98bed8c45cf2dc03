"""Models as objects: load, enlarge, save."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from sr_quant_cli.api.images import Levels, open_image
from sr_quant_cli.api.progress import Progress, ProgressCallback, quietly
from sr_quant_cli.commands.enlarge import enlarge
from sr_quant_cli.commands.scaled_models import ScaledModels, find_models
from sr_quant_cli.commands.sizes import SizeRequest
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import picture_of
from sr_quant_cli.inference.opening import open_model, open_network
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.tiles import TileResult
from sr_quant_cli.modelfiles.named import Named, Source, identify
from sr_quant_cli.records import record
from sr_quant_cli.runtimes.registry import AUTO
from sr_quant_cli.system.choices import Depth, PrecisionChoice

if TYPE_CHECKING:
    from sr_quant_cli.modelfiles.card import Card
    from sr_quant_cli.modelfiles.catalog import NamedModel
    from sr_quant_cli.networks.base import Network

Image = TypeVar("Image")
"""A NumPy array, a Pillow image or a torch tensor."""

Factor = float | tuple[float, float]
"""Factor of an enlargement, or those of width and height."""

_SUFFIX = ".safetensors"


@record
class InMemory:
    """A model that is in no file."""

    network: "Network"
    card: "Card"


class Model:
    """A model that enlarges images; ``load_model``, ``calibrate`` and ``quantize`` make it.

    Threads may share it: they take turns, and each image runs on all cores. The file is opened
    when the first image comes, which for networks without a program for srq's own kernels takes
    seconds once on a machine.

    A model that ``calibrate`` or ``quantize`` made is in memory. It runs on srq's own kernels if
    they run all of it, else in torch; a saved one can run in every runtime.

    Examples
    --------
    >>> import numpy as np
    >>> import sr_quant_cli as srq
    >>> model = srq.load_model("fast")
    >>> model
    Model('edsr-small-x4-w8a8', scale=4, bits='w8a8')
    >>> model.upscale(np.zeros((5, 7, 3), np.uint8)).shape
    (20, 28, 3)
    """

    def __init__(self, content: Source | InMemory, options: RunOptions) -> None:
        self._content, self._options = content, options
        self._models: ScaledModels | None = None
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"Model({self.name!r}, scale={self.scale}, bits={self.bits!r})"

    @property
    def name(self) -> str:
        """Name in tables."""
        if isinstance(self._content, InMemory):
            return self._content.card.name
        described = self._described()
        return described.card.name or described.name

    @property
    def scale(self) -> int:
        """Factor by which the network enlarges."""
        if isinstance(self._content, InMemory):
            return self._content.network.scale
        return self._described().scale or self._opened().scale_for(None)

    @property
    def bits(self) -> str | None:
        """Bits of weights and activations, as ``w8a8``, or ``float``; None: unknown."""
        if isinstance(self._content, Source):
            return self._described().bits
        quantization = self._content.network.quantization
        return "float" if quantization is None else str(quantization.bits)

    @property
    def card(self) -> "Card":
        """Name, origin, licence, training history and scores."""
        if isinstance(self._content, InMemory):
            return self._content.card
        return self._described().card

    def upscale(
        self,
        image: Image,
        *,
        scale: Factor | None = None,
        width: int | None = None,
        height: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Image:
        """Enlarge an image; see the function ``upscale``, whose parameters these are."""
        with self._lock:
            size = _size(scale, width, height)
            return _upscaled(image, self._opened, size, progress)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write a model file.

        A quantized model is packed, and holds a program for srq's own kernels if they run it.

        Parameters
        ----------
        path
            A ``.safetensors`` file.
        overwrite
            Replace an existing file.

        Raises
        ------
        UsageError
            The file exists, has another suffix, or the model is a graph that is no ONNX file.
        FailedError
            The file cannot be written.
        """
        path = Path(path)
        if path.suffix != _SUFFIX:
            raise UsageError(f"must end in {_SUFFIX}", field="path", value=path)
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists; use `overwrite` to replace it")
        with quietly(None):
            self._write(path)

    def to_torch(self) -> "Network":
        """Copy the network into torch.

        Returns
        -------
        A ``torch.nn.Module`` on the CPU, in evaluation mode: float RGB 0..1 ``[N, 3, h, w]`` to
        ``[N, 3, H, W]``, unclipped. Its quantization is simulated, as in training.

        Raises
        ------
        UsageError
            The model is a graph that is no ONNX file.
        """
        with quietly(None):
            return self.content().network

    @property
    def options(self) -> RunOptions:
        """Options of running it."""
        return self._options

    @property
    def wanted_scale(self) -> int | None:
        """Scale that ``load_model`` was asked for, which a checkpoint of several scales needs."""
        return self._content.scale if isinstance(self._content, Source) else None

    def content(self) -> InMemory:
        """Copy the network and the card into memory."""
        if isinstance(self._content, InMemory):
            network = deepcopy(self._content.network).eval()
            return InMemory(network, self._content.card)
        from sr_quant_cli.modelfiles.loading import load

        network, header = load(self._content, self._options.depth)
        return InMemory(network, header.card)

    @contextmanager
    def file(self, *, trainable: bool = False) -> Iterator[Path]:
        """Yield a file of the model, which may be temporary.

        Parameters
        ----------
        trainable
            Keep float weights behind the codes of a model in memory.
        """
        if isinstance(self._content, Source):
            yield self._content.path
            return
        from sr_quant_cli.modelfiles.modelfile import save_model

        with TemporaryDirectory() as folder:
            path = Path(folder) / f"model{_SUFFIX}"
            save_model(path, self._content.network, self._content.card, packed=not trainable)
            yield path

    def _write(self, path: Path) -> None:
        from sr_quant_cli.commands.pack import add_program
        from sr_quant_cli.modelfiles.modelfile import pack_model, save_model

        if isinstance(self._content, Source) and self._content.is_model_file:
            pack_model(self._content.path, path, {}, half=False)
            return
        content = self.content()
        save_model(path, content.network, content.card)
        add_program(path)

    def _described(self) -> "NamedModel":
        from sr_quant_cli.modelfiles.catalog import describe

        assert isinstance(self._content, Source)
        return describe(self._content.path.stem, self._content)

    def _opened(self) -> ScaledModels:
        with self._lock:
            if self._models is None:
                self._models = ScaledModels(
                    open_network(self._content.network, self.name, self._options)
                    if isinstance(self._content, InMemory)
                    else open_model(self._content, self._options)
                )
            return self._models


def load_model(
    model: Named | None = None,
    *,
    scale: int | None = None,
    runtime: str = AUTO,
    device: str = "auto",
    precision: PrecisionChoice = "auto",
    threads: int | None = None,
    depth: Depth = "full",
    tile: int | None = None,
    self_ensemble: bool = False,
) -> Model:
    """Load a model.

    Parameters
    ----------
    model
        Name of an embedded model or of one of your own, as ``list_models`` lists them; an srq
        model file, a run folder, a checkpoint of another project, an ONNX or OpenVINO file; None:
        the embedded model of the scale.
    scale
        Scale that the model must have: 2, 3, 4 or 8; None: its own, else 4.
    runtime
        A runtime such as ``srq``, ``torch``, ``openvino`` or ``onnxruntime``; ``auto``: CUDA if it
        is there, else the fastest one that agrees with the model.
    device
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    precision
        Arithmetic of everything that does not run on integers: ``auto``, ``fp32`` or ``bf16``.
    threads
        CPU threads; None: one for each core.
    depth
        Share of the blocks to run, for networks with several depths: ``full``, ``half``,
        ``quarter``.
    tile
        LR pixels per side that a tile keeps; None: by memory.
    self_ensemble
        Take the mean over eight rotations and reflections, which is eight times as slow.

    Raises
    ------
    UsageError
        There is no such model, its file is damaged, or the options exclude each other.

    Examples
    --------
    >>> import sr_quant_cli as srq
    >>> srq.load_model("edsr-baseline-x2-w29a6").scale
    2
    """
    from sr_quant_cli.modelfiles.catalog import describe
    from sr_quant_cli.scales import check_enlargement

    options = RunOptions(
        runtime=runtime,
        device=device,
        precision=precision,
        threads=threads,
        depth=depth,
        tile=tile,
        self_ensemble=self_ensemble,
    )
    with quietly(None):
        source = identify(_checked(model), scale)
        described = describe(source.path.stem, source)
        if described.problem:
            raise UsageError(described.problem)
        if described.scale is not None:
            check_enlargement(described.card.name or described.name, described.scale, scale)
    return Model(source, options)


def list_models() -> "list[NamedModel]":
    """List the models that have names: the embedded ones, then your own.

    Raises
    ------
    UsageError
        The folder of your models cannot be read.

    Examples
    --------
    >>> import sr_quant_cli as srq
    >>> [model.scale for model in srq.list_models() if model.name == "edsr-baseline-x3"]
    [3]
    """
    from sr_quant_cli.modelfiles.catalog import named_models

    with quietly(None):
        return named_models()


def upscale(
    image: Image,
    model: Model | Named | None = None,
    *,
    scale: Factor | None = None,
    width: int | None = None,
    height: int | None = None,
    progress: ProgressCallback | None = None,
) -> Image:
    """Enlarge an image, to the pixels that ``srq upscale`` writes for the same picture.

    Images of 8 bits run on integers. Those of 16 bits and floats need torch: they run in full
    precision, and the result is rounded to 16 bits.

    Parameters
    ----------
    image
        * A NumPy array, uint8, uint16 or float 0..1: RGB ``[H, W, 3]``, grey ``[H, W]`` or
          ``[H, W, 1]``, with alpha ``[H, W, 4]`` or ``[H, W, 2]``; display levels, as in files.
        * A Pillow image of mode L, LA, RGB, RGBA or I;16.
        * A torch tensor, uint8 or float 0..1: ``[3, H, W]``, or a batch ``[N, 3, H, W]``.
    model
        A ``Model``, or what ``load_model`` takes, which is opened for this call alone; None: the
        embedded model of the scale.
    scale
        Factor up to 16, such as 2.5; those of width and height: ``(1.5, 1)``; None: 4, or that of
        the model.
    width, height
        Pixels of the result instead of a factor; one of them keeps the proportions.
    progress
        Called with a ``Progress`` for every finished tile.

    Returns
    -------
    The enlarged image: of the kind, type and number of dimensions of ``image``, and on its device.

    Raises
    ------
    TypeError
        The image is of another kind or type.
    ValueError
        The image has another shape, no pixels, or values beyond 0..1.
    UsageError
        There is no such model or size, or the model does not take such an image.
    FailedError
        The memory is too small, or the runtime fails.

    Examples
    --------
    >>> import numpy as np
    >>> import sr_quant_cli as srq
    >>> grey = np.full((10, 15), 128, np.uint8)
    >>> srq.upscale(grey).shape, srq.upscale(grey, scale=2).dtype
    ((40, 60), dtype('uint8'))
    >>> srq.upscale(grey, width=40).shape
    (27, 40)
    """
    if isinstance(model, Model):
        return model.upscale(image, scale=scale, width=width, height=height, progress=progress)
    name, size = _checked(model), _size(scale, width, height)
    options = RunOptions(runtime=AUTO)
    return _upscaled(
        image,
        lambda: find_models(None if name is None else str(name), size, options),
        size,
        progress,
    )


def _upscaled(
    image: Image, find: Any, size: SizeRequest, progress: ProgressCallback | None
) -> Image:
    opened = open_image(image)
    with quietly(progress):
        models: ScaledModels = find()
        made = [_enlarged(levels, models, size, progress) for levels in opened.levels]
    result: Image = opened.restore(made)
    return result


def _enlarged(
    levels: Levels, models: ScaledModels, size: SizeRequest, progress: ProgressCallback | None
) -> Levels:
    picture = picture_of(levels)
    wanted = size.of(picture.height, picture.width) if size else None
    scale = models.scale_for(None if wanted is None else wanted.factor)
    upscaler = models.open(scale, picture.bits)
    result = (picture.height * scale, picture.width * scale)
    other = None if wanted is None or (wanted.height, wanted.width) == result else wanted
    tiles, done = upscaler.tile_count(picture.height, picture.width), 0

    def on_tile(_: TileResult) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(Progress("upscaling", done, max(tiles, done), "tile"))

    return enlarge(
        picture,
        upscaler,
        size=None if other is None else (other.height, other.width),
        on_tile=on_tile,
    )


def _size(scale: Factor | None, width: int | None, height: int | None) -> SizeRequest:
    """Check the types of a requested size."""
    factors = None
    if scale is not None:
        pair = scale if isinstance(scale, tuple) else (scale, scale)
        if len(pair) != 2 or not all(_is_number(factor) for factor in pair):
            raise TypeError(f"scale is a number or a pair (of width, of height), not {scale!r}")
        factors = (float(pair[0]), float(pair[1]))
    for name, side in (("width", width), ("height", height)):
        if side is None:
            continue
        if isinstance(side, bool) or not hasattr(side, "__index__"):
            raise TypeError(f"{name} is a whole number of pixels, not {side!r}")
        if side < 1:
            raise UsageError("must be 1 or more pixels", field=name, value=side)
    return SizeRequest(factors, width, height)


def _is_number(value: object) -> bool:
    return hasattr(value, "__float__") and not isinstance(value, bool | str)


def _checked(model: object) -> Named | None:
    if model is None:
        return None
    return checked_name(model)


def checked_name(model: object) -> Named:
    """Return what a user names a model by; refuse what is no name.

    Raises
    ------
    TypeError
        It is neither text nor a path.
    """
    if isinstance(model, str | Path):
        return model
    raise TypeError(f"a model is a name, a path or a Model, not {type(model).__name__}")
