"""The options of the command line, and the experiment that they describe."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import alpha_func
from alpha_func.experiment.folder import FORMATS
from alpha_func.experiment.optimizers import KINDS
from alpha_func.experiment.rules import RULES
from alpha_func.experiment.settings import ACTIVATIONS, DTYPES, LOSSES, MISSING, STDIN, TASKS, TEXT, WAYS, Experiment

BAD_INPUT = 2
_DEFAULT = Experiment()
_NAMED = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";"}


class Parser(argparse.ArgumentParser):
    """Errors are one line, and point to the help of the command that they are about."""

    def error(self, message: str) -> NoReturn:
        """Without the usage that argparse prints before it."""
        message = " ".join(message.split())
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The options, or the end of the process with one line."""
    top, commands = _parser()
    options, rest = top.parse_known_args(arguments)
    if rest:
        commands[options.command].error(f"unrecognized arguments: {' '.join(rest)}")
    return options


def experiment(options: argparse.Namespace) -> Experiment:
    """The experiment of ``observe``'s options."""
    names = (field.name for field in fields(Experiment))
    return Experiment(**{name: getattr(options, name) for name in names})


def folder(options: argparse.Namespace) -> Path:
    """Where its files go."""
    name = "stdin" if options.data == STDIN else Path(options.data).name.split(".")[0] or "run"
    return options.out or Path("runs") / name


def _parser() -> tuple[Parser, dict[str, Parser]]:
    top = Parser(prog="alpha-func", description=alpha_func.__doc__)
    top.add_argument("--version", action="version", version=f"alpha-func {alpha_func.__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    observe = commands.add_parser(
        "observe",
        help="train a network and record the optimal step size α* along the way",
        description="Train a network and record the optimal step size α* of every mini-batch step, under one optimizer "
        "or several. The defaults are the first experiment: plain SGD, 10-5-1, ReLU, MSE, 1000 normal samples, batches "
        "of 32, 100 epochs.",
    )
    _data(observe.add_argument_group("data"))
    _network(observe.add_argument_group("network"))
    _training(observe.add_argument_group("training"))
    _observing(observe.add_argument_group("observing"))
    _showing(observe)
    resume = commands.add_parser(
        "resume",
        help="continue a run that was interrupted or killed",
        description="Continue a run that was interrupted or killed: the rows and numbers are those of a run in one go.",
    )
    resume.add_argument("folder", type=Path, metavar="FOLDER", help="of the run; for data from stdin, give it again")
    _showing(resume)
    plot = commands.add_parser(
        "plot",
        help="draw the pictures of a run, or of any file of records",
        description="Draw alpha.png, and lines.png where a run kept its lines, from the files of a run that is "
        "finished, running or killed, or from a file of records (CSV or JSON lines) of your own loop.",
    )
    plot.add_argument("path", type=Path, metavar="PATH", help="the folder of a run, or a file of records")
    plot.add_argument(
        "--out", type=Path, metavar="FILE", help="the picture: .png, .svg or .pdf (default: beside the records)"
    )
    plot.add_argument("--title", help="of the picture (default: what the run was, or the file's name)")
    plot.add_argument("--ema", type=_number, metavar="BETA", help="draw the moving average of α* too, such as 0.9")
    plot.add_argument("--format", **_FORMAT)
    return top, {"observe": observe, "resume": resume, "plot": plot}


_FORMAT: dict[str, Any] = {
    "choices": FORMATS,
    "default": "png",
    "help": f"of the pictures: {', '.join(FORMATS)} (default: png)",
}


def _data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        default=_DEFAULT.data,
        help="normal, diabetes, digits, a CSV file (.gz, .bz2, .xz or .zip too), or - for stdin (default: normal)",
    )
    group.add_argument("--target", metavar="COLUMN", help="the CSV file's column to predict")
    group.add_argument("--task", choices=TASKS, help="what to train on a CSV file (default: regression)")
    group.add_argument(
        "--separator", type=_separator, default=_DEFAULT.separator, metavar="CHAR",
        help="between the CSV file's values, such as ';' or tab (default: a comma)",
    )  # fmt: skip
    group.add_argument(
        "--decimal", default=_DEFAULT.decimal, metavar="CHAR", help="the CSV file's decimal point: . or , (default: .)"
    )
    group.add_argument("--encoding", default=_DEFAULT.encoding, help="of the CSV file (default: utf-8)")
    group.add_argument(
        "--text", choices=TEXT, default=_DEFAULT.text,
        help="columns of text: refuse them, make columns of 0 and 1 of their values, or leave them out "
        "(default: refuse)",
    )  # fmt: skip
    group.add_argument(
        "--missing", choices=MISSING, default=_DEFAULT.missing,
        help="missing values: refuse them, drop their rows, or fill in the mean of their column (default: refuse)",
    )  # fmt: skip
    group.add_argument(
        "--leave-out", type=_names, default=(), metavar="COLUMNS", help="columns not to use, such as id,name"
    )


def _network(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--hidden", type=_sizes, default=_DEFAULT.hidden, metavar="SIZES",
        help="hidden layers: 64,32; '' for none (default: 5)",
    )  # fmt: skip
    group.add_argument(
        "--activation", choices=ACTIVATIONS, default=_DEFAULT.activation, help="between the layers (default: relu)"
    )
    group.add_argument("--loss", choices=LOSSES, help="(default: mse; for classes cross-entropy)")
    group.add_argument(
        "--dtype", choices=DTYPES, default=_DEFAULT.dtype, help="of parameters and data (default: float32)"
    )


def _training(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--optimizer", type=_names, default=_DEFAULT.optimizers, metavar="NAMES", dest="optimizers",
        help=f"one, or several to compare: {', '.join(KINDS)}; options of their own after colons: "
        "sgd,adam:lr=0.001; muon steps the biases by AdamW (default: sgd)",
    )  # fmt: skip
    group.add_argument(
        "--lr", type=_learning_rate, default=_DEFAULT.lr, metavar="RATE",
        help=f"a number, or a rule to step by: {', '.join(RULES)}; alpha is α* itself (default: 0.01)",
    )  # fmt: skip
    group.add_argument("--momentum", type=_number, metavar="M", help="of momentum, nesterov, rmsprop, muon")
    group.add_argument("--betas", type=_pair, metavar="B1,B2", help="of adam, adamw")
    group.add_argument("--weight-decay", type=_number, metavar="W", help="of every optimizer")
    group.add_argument("--eps", type=_number, metavar="E", help="of adam, adamw, rmsprop, adagrad")
    group.add_argument(
        "--factor",
        type=_number,
        default=_DEFAULT.factor,
        metavar="F",
        help="of the rule: F·α* with alpha and trusted, σ of cdat, ... (default: the rule's own; alpha 1, cdat 2)",
    )
    group.add_argument(
        "--ema", type=_number, metavar="BETA",
        help="the exponential moving average, such as 0.9: of α*, drawn, and of --lr alpha, cdat, trusted, stepped by",
    )  # fmt: skip
    group.add_argument(
        "--epochs", type=_count, default=_DEFAULT.epochs, metavar="N", help="over the data (default: 100)"
    )
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--batch-size", type=_count, default=_DEFAULT.batch_size, metavar="N", help="samples a step (default: 32)"
    )
    size.add_argument("--full-batch", action="store_true", help="all samples at every step")
    group.add_argument("--shuffle", action="store_true", help="draw new batches every epoch")
    group.add_argument(
        "--seed", type=_count, default=_DEFAULT.seed, metavar="N", help="of weights, drawn data and order (default: 0)"
    )


def _observing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--strategy", choices=WAYS, default=_DEFAULT.strategy, help="how dᵀHd is computed (default: captured)"
    )
    group.add_argument(
        "--every", type=_count, default=_DEFAULT.every, metavar="K", help="record every K-th step (default: 1)"
    )
    group.add_argument(
        "--holdout-batch", action="store_true",
        help="measure each direction on the next mini-batch too: its α* is not biased by the direction's own noise",
    )  # fmt: skip
    group.add_argument(
        "--full-data", type=_count, metavar="K", help="measure every K-th step's direction on all samples too"
    )
    group.add_argument(
        "--trust-radius", action="store_true",
        help="record how many steps far the quadratic is within a tenth of itself, by its third derivative",
    )  # fmt: skip
    group.add_argument(
        "--best-momentum", action="store_true",
        help="record the learning rate and the momentum that together would have been best for the step",
    )  # fmt: skip
    group.add_argument("--out", type=Path, metavar="FOLDER", help="a new folder for the files (default: runs/DATA)")


def _showing(parser: Parser) -> None:
    parser.add_argument("--verbose", action="store_true", help="print step norms every epoch and the loss every tenth")
    parser.add_argument("--format", **_FORMAT)
    parser.add_argument("--no-pictures", action="store_true", help="draw none; alpha-func plot FOLDER does it later")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _separator(text: str) -> str:
    return _NAMED.get(text, text)


def _pair(text: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.replace("/", ",").split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a pair of betas: give two such as 0.9,0.999") from None
    return first, second


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(_count(size) for size in text.split(",") if size.strip())
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of sizes: give whole numbers such as 64,32") from None


def _count(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)  # 1e3
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number: give one such as 100 or 1e3")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: give one such as 0.1") from None


def _learning_rate(text: str) -> float | str:
    if text in RULES:
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a learning rate: give a number such as 0.01, or a rule: {', '.join(RULES)}"
        ) from None
