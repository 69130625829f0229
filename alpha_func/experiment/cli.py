"""The command line: ``alpha-func observe``."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import alpha_func
from alpha_func.experiment.optimizers import KINDS, InputError
from alpha_func.experiment.settings import ACTIVATIONS, DTYPES, TASKS, WAYS, Experiment

EXTRAS = ("matplotlib", "pandas", "rich", "sklearn")
INTERRUPTED, BAD_INPUT = 130, 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, without the usage that argparse prints before it."""
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for bad input, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        return _refuse(f"{', '.join(missing)} is not installed: pip install 'alpha-func[observe]'")
    try:
        return _observe(options, ["alpha-func", *arguments])
    except InputError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        return _refuse("interrupted before the first step; nothing recorded", INTERRUPTED)


def _refuse(message: str, status: int = BAD_INPUT) -> int:
    print(f"alpha-func observe: {' '.join(message.split())}", file=sys.stderr)
    return status


def _observe(options: argparse.Namespace, command: list[str]) -> int:
    from alpha_func.experiment.display import Display
    from alpha_func.experiment.run import run

    experiment = Experiment(
        data=options.data,
        target=options.target,
        task=options.task,
        hidden=options.hidden,
        activation=options.activation,
        optimizers=options.optimizer,
        lr=options.lr,
        momentum=options.momentum,
        betas=options.betas,
        weight_decay=options.weight_decay,
        eps=options.eps,
        factor=options.factor,
        epochs=options.epochs,
        batch_size=options.batch_size,
        shuffle=options.shuffle,
        seed=options.seed,
        dtype=options.dtype,
        strategy=options.strategy,
        every=options.every,
        holdout_batch=options.holdout_batch,
        full_data=options.full_data,
    )
    folder = options.out or Path("runs") / Path(options.data).stem
    with Display(verbose=options.verbose, several=len(experiment.optimizers) > 1) as display:
        summary = run(
            experiment, folder, command=command, on_start=display.start, on_observation=display.show_observation
        )
    display.show_summary(summary)
    return INTERRUPTED if summary.interrupted else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="alpha-func", description=alpha_func.__doc__)
    parser.add_argument("--version", action="version", version=f"alpha-func {alpha_func.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    observe = commands.add_parser(
        "observe",
        help="train a network and record the optimal step size α* along the way",
        description="Train a network and record the optimal step size α* of every mini-batch step, under one optimizer "
        "or several. The defaults are the first experiment: plain SGD, 10-5-1, ReLU, MSE, 1000 normal samples, batches "
        "of 32, 100 epochs.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    default = Experiment()
    data = observe.add_argument_group("data")
    data.add_argument("--data", default=default.data, help="normal, diabetes, digits, or a CSV file")
    data.add_argument("--target", metavar="COLUMN", help="the CSV file's column to predict")
    data.add_argument("--task", choices=TASKS, help="what to train on a CSV file (default: regression)")
    network = observe.add_argument_group("network")
    network.add_argument(
        "--hidden",
        type=_sizes,
        default=default.hidden,
        metavar="SIZES",
        help="hidden layers: 64,32; '' for none",
    )
    network.add_argument("--activation", choices=ACTIVATIONS, default=default.activation, help="between the layers")
    network.add_argument("--dtype", choices=DTYPES, default=default.dtype, help="of parameters and data")
    training = observe.add_argument_group("training")
    training.add_argument(
        "--optimizer",
        type=_names,
        default=",".join(default.optimizers),
        metavar="NAMES",
        help=f"one, or several to compare: {', '.join(KINDS)}; options of their own after colons: "
        "sgd,adam:lr=0.001; muon steps the biases by AdamW",
    )
    training.add_argument(
        "--lr", type=_learning_rate, default=default.lr, metavar="RATE", help="a number, or alpha to step by α* itself"
    )
    training.add_argument("--momentum", type=float, metavar="M", help="of momentum, nesterov, rmsprop, muon")
    training.add_argument("--betas", type=_pair, metavar="B1,B2", help="of adam, adamw")
    training.add_argument("--weight-decay", type=float, metavar="W", help="of every optimizer")
    training.add_argument("--eps", type=float, metavar="E", help="of adam, adamw, rmsprop, adagrad")
    training.add_argument("--factor", type=float, default=default.factor, help="with --lr alpha: step by FACTOR·α*")
    training.add_argument("--epochs", type=int, default=default.epochs, help="passes over the data")
    training.add_argument("--batch-size", type=int, default=default.batch_size, help="samples a step")
    training.add_argument("--shuffle", action="store_true", help="draw the batches anew every epoch")
    training.add_argument("--seed", type=int, default=default.seed, help="of weights, drawn data and shuffling")
    observing = observe.add_argument_group("observing")
    observing.add_argument("--strategy", choices=WAYS, default=default.strategy, help="how dᵀHd is computed")
    observing.add_argument("--every", type=int, default=default.every, metavar="K", help="record every K-th step")
    observing.add_argument(
        "--holdout-batch",
        action="store_true",
        help="measure each direction on the next mini-batch too: its α* is not biased by the direction's own noise",
    )
    observing.add_argument(
        "--full-data", type=int, metavar="K", help="measure every K-th step's direction on all samples too"
    )
    observing.add_argument("--out", type=Path, metavar="FOLDER", help="a new folder for the files (default: runs/DATA)")
    observing.add_argument(
        "--verbose", action="store_true", help="print direction norms every epoch and the loss every tenth"
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _pair(text: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.replace("/", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no pair of betas: give two numbers such as 0.9,0.999") from None
    return first, second


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of sizes: give whole numbers such as 64,32") from None


def _learning_rate(text: str) -> float | None:
    if text == "alpha":
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no learning rate: give a number such as 0.01, or alpha"
        ) from None
