"""What to try, first things first: the sense of chapter 5.5.3 and 8.5, in our own sentences."""

ADVICE: dict[str, tuple[str, ...]] = {
    "diverged": (
        "Make the learning rate smaller, by tens: the steps overshoot the valley.",
        "Bring inputs and targets to zero mean and unit spread, so that one rate suits every "
        "parameter.",
        "Clip the gradient's norm where single batches are to blame.",
    ),
    "too few epochs to tell": ("Train for more epochs, then ask again.",),
    "not learning": (
        "Try learning rates ten times larger and ten times smaller.",
        "Check that the model can memorise eight examples; one that cannot has a fault in "
        "model, loss or data.",
        "Normalise the inputs, and check initialisation and activations.",
        "Give the model more capacity: it may be too simple for what is asked.",
        "Ask whether the inputs carry what is to be predicted.",
    ),
    "uninformative data": (
        "Check that inputs and targets still belong together, row by row.",
        "Ask whether the inputs carry what is to be predicted; find others that do.",
        "Get more data: a weak relation needs many examples to be seen.",
    ),
    "overfitting": (
        "Get more data, or make more of them by augmentation.",
        "Keep the parameters of the best epoch: stop early.",
        "Penalise large weights (weight decay), or drop units out.",
        "Add noise to the inputs.",
        "Make the model simpler: fewer units or layers.",
    ),
    "overfitting under control": (
        "Leave it if the validation loss is good enough: the gap is stable and training on "
        "does no harm.",
        "Get more data or augment, which closes the gap from above.",
        "Regularise a little more and see whether validation loss falls.",
    ),
    "not converged": (
        "Train for more epochs: validation loss is still falling.",
        "Try a larger learning rate, or a better scaled input, to get there sooner.",
    ),
    "underfitting": (
        "Give the model more capacity: more units, more layers, more suitable ones.",
        "Weaken the regularisation, if there is any.",
        "Ask whether the inputs carry what is to be predicted: noise cannot be learned.",
    ),
    "good fit": (
        "Leave it; or grow the model until it overfits, to know that this size is the right "
        "one.",
        "Judge the final figure on a test set that chose nothing.",
    ),
}


# Calls that decide between verdicts, with the names of docs/diagnose.md. Each has the verdicts
# that it tells from others, and the loss that must be unknown for it to help.
DECIDING: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (
        ("uninformative data",),
        "trivial",
        "Say which loss a predictor has that does not look at its input:",
        'diagnose(result, baseline=float(val_set["y"].var()))'
        "  # of a cross entropy: the entropy of the labels",
    ),
    (
        ("not learning", "diverged"),
        "",
        "Train with other learning rates:",
        'print(search.sweep(make, train_set, val_set, over={{"lr": [1e-4, 1e-3, 1e-2, 1e-1], '
        '"key": range(3)}}, epochs={epochs}, batch_size=32))',
    ),
    (
        ("not converged", "overfitting"),
        "",
        "Train for twice as many epochs more, with a smaller rate if the losses jump:",
        "more = train.run(learner, result.state, train_set, val_set, "
        "epochs={further}, batch_size=32)\n"
        "diagnose({{k: np.append(result.history[k], more.history[k]) for k in more.history}})",
    ),
    (
        ("underfitting", "good fit"),
        "reachable",
        "Say which loss a larger model reaches:",
        "report = search.search_capacity(make, train_set, val_set, "
        "sizes=[16, 64, 256], seeds=3, epochs={epochs}, batch_size=32)\n"
        'diagnose(result, baseline={{"reachable": min(size.val for size in report.sizes)}})',
    ),
    (
        tuple(ADVICE),
        "",
        "See whether other initial weights give the same:",
        "print(search.sweep(make, train_set, val_set, "
        'over={{"key": range(5)}}, epochs={epochs}, batch_size=32))',
    ),
)


def deciding(
    candidates: tuple[str, ...], unknown: set[str], epochs: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sentences and code that decide between candidates, the most useful first."""
    useful = [
        (sentence, code.format(epochs=epochs, further=2 * epochs))
        for verdicts, loss, sentence, code in DECIDING
        if (not loss or loss in unknown) and set(verdicts) & set(candidates)
    ]
    kept = useful[:-1] or useful  # other weights only if nothing else decides
    return tuple(sentence for sentence, _ in kept), tuple(code for _, code in kept)
