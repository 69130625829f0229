"""What people give to a command line: CSV files and options, and what must be said of each in one line."""

GOOD = "a,b,y\n" + "".join(f"{k % 7},{k % 5},{k}\n" for k in range(40))
GERMAN = "a;b;y\n" + "".join(f"{k % 7},5;{k % 5},25;{k},0\n" for k in range(40))

# name: (what is in the file, options, what is said)
REFUSED = {
    "one value more in every row": ("a,y\n1,2,3\n4,5,6\n", [], r"more values .* than names in its header"),
    "one value more in one row": ("a,y\n1,2\n4,5,6\n", [], r"Expected 2 fields in line 3, saw 3"),
    "a name twice": ("a,y,y\n1,2,3\n4,5,6\n", [], r"several columns named y: rename them"),
    "a column without a name": ("a,,y\n1,7,3\n4,5,6\n", [], r"column 2 of .* has no name"),
    "semicolons": (GERMAN, [], r"if ';' separates its values, give --separator ';'"),
    "tabs": ("a\ty\n1\t2\n", [], r"if tab separates its values, give --separator tab"),
    "decimal commas": (GERMAN, ["--separator", ";"], r"for a decimal comma give --decimal ,"),
    "texts, all of them": (
        "a,b,c,y\n1,x,2,3\n2,y,z,4\n",
        [],
        r"text in column 'b' \(data row 1: 'x'\), 'c' \(data row 2: 'z'\): --text one-hot",
    ),
    "missing values, all of them": (
        "a,b,y\n1,,3\n,2,4\n",
        [],
        r"missing values in column 'a' \(data row 2\), 'b' \(data row 1\): --missing drop",
    ),
    "nothing but missing": ("a,b,y\n1,,3\n2,,4\n", ["--missing", "mean"], r"no values at all in b: --leave-out b"),
    "no whole row": ("a,b,y\n1,,3\n,2,4\n", ["--missing", "drop"], r"no row without missing values"),
    "a constant target": ("a,y\n1,2\n2,2\n", [], r"the same in all rows.*nothing to learn"),
    "one class": ("a,y\n1,x\n2,x\n", ["--task", "classification"], r"the same in all rows"),
    "too many texts": (
        "a,y\n" + "".join(f"t{k},{k}\n" for k in range(101)),
        ["--text", "one-hot"],
        r"101 different texts.*--leave-out a",
    ),
    "text alone, left out": ("a,y\nx,1\nz,2\n", ["--text", "leave-out"], r"no column of numbers to predict from"),
    "a misspelt column": (GOOD, ["--leave-out", "aa"], r"leave out 'aa' is not a column .*: it has a, b, y.*mean 'a'"),
    "the target left out": (GOOD, ["--leave-out", "y"], r"leave out names the target 'y'"),
    "another encoding": (b"a,y\n1,\xe9\n", [], r"is not utf-8: give its --encoding, such as cp1252"),
    "no such encoding": (GOOD, ["--encoding", "klingon"], r"unknown encoding: klingon"),
    "an infinity": ("a,y\n1,2\ninf,3\n", [], r"infinity in column 'a' \(data row 2: inf\)"),
    "cross-entropy of numbers": (GOOD, ["--loss", "cross-entropy"], r"cross-entropy is for classes"),
}

# options that are refused, and what is said
BAD_OPTIONS = {
    "hidden beyond memory": (["--hidden", "1000000000,1000000000"], r"makes 1e\+18 parameters.* this machine has"),
    "hidden beyond counting": (["--hidden", "9" * 40], r"layer of size 1e\+40"),
    "momentum nan": (["--optimizer", "momentum", "--momentum", "nan"], r"momentum is nan: give a finite number"),
    "weight decay inf": (["--weight-decay", "inf"], r"weight decay is inf: give a finite number"),
    "betas nan": (["--optimizer", "adam", "--betas", "nan,0.9"], r"betas is \(nan, 0.9\): give a finite number"),
    "own option inf": (["--optimizer", "adam:eps=inf"], r"eps is inf: give a finite number"),
    "beyond the dtype": (["--lr", "1e300"], r"learning rate is 1e\+300, beyond float32"),
    "ema of one": (["--ema", "1"], r"ema is 1: give the share of the last average"),
    "no such rule": (["--lr", "greedy"], r"'greedy' is not a learning rate: give a number .*, or a rule: alpha, cdat"),
    "no such rule of an optimizer": (
        ["--optimizer", "adam:lr=greedy"],
        r"'greedy' is not a number, nor a rule: alpha",
    ),
    "a factor of nothing": (["--factor", "0.5"], r"factor is of a rule .*: give --lr with one of alpha, cdat"),
    "a factor of Armijo's": (["--lr", "armijo", "--factor", "0.5"], r"factor is of a rule .*: give --lr with one of"),
    "a factor of zero": (["--lr", "cdat", "--factor", "0"], r"factor is 0: give a positive number"),
    "epochs of a half": (["--epochs", "1.5"], r"'1.5' is not a whole number: give one such as 100 or 1e3"),
    "epochs beyond counting": (["--epochs", "1e30"], r"epochs is 1e\+30: .*at most 1e12"),
    "an unknown option": (
        ["--learning-rate", "1"],
        r"observe: unrecognized .*-rate 1 \(see .*observe",
    ),
    "both batches": (["--full-batch", "--batch-size", "3"], r"not allowed with"),
    "two separators": (["--separator", ";;"], r"separator is ';;': give one character"),
    "a separator that is a digit": (["--separator", "5"], r"which can stand in a value"),
    "a folder as data": (["--data", "."], r"data \. is a folder: give a CSV file"),
    "a device as data": (["--data", "/dev/zero"], r"is a device"),
    "a NUL in a name": (["--data", "a\0b.csv"], r"does not exist"),
    "newlines": (["--data", "a\nb.csv"], r"data file a b\.csv does not exist"),
}
