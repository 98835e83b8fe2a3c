"""What is concluded of GPUs side by side: their fastest dense engines, and the mean speed-ups of each pattern."""

from slidesparse.report.document.model import fixed, joined, say
from slidesparse.report.sections.alike import (
    apart,
    beyond,
    label_and,
    means,
    other_shapes,
    protocols_of,
    settings_of,
    shared,
    unlike_settings,
)
from slidesparse.report.sections.ratios import FIGURES, lacking_at
from slidesparse.report.sources.rows import configuration_order

HOSTS = say("; the share of the hosts in it is unknown")
"""What is said of rates of decode on two GPUs: a step may wait for its host, and no point of others tells how long."""


def conclusions(summaries, labels):
    """Computed sentences: the fastest dense engines of all hardware, and mean speed-ups by pattern."""
    sentences = []
    for key in shared(summaries, "dense"):
        dense = {label: item.dense.get(key, {}) for item, label in zip(summaries, labels, strict=True)}
        dense = {label: values for label, values in dense.items() if values}
        other = other_shapes(summaries, labels, key[0], key[2], key[3], dense)
        there = [label for item, label in zip(summaries, labels, strict=True) if key in item.dense_there]
        sentences += other or dense_engines(key, dense, there)
    for key in shared(summaries, "ratios"):
        having = [
            (item.ratios[key], label) for item, label in zip(summaries, labels, strict=True) if key in item.ratios
        ]
        if len(having) < 2:
            continue
        if other := other_shapes(summaries, labels, key[0], key[3], key[4], [label for _, label in having]):
            sentences += [each for each in other if each not in sentences]
            continue
        patterns = sorted({name for one, _ in having for name in one.sparse_names()}, key=configuration_order)
        for name in patterns:
            there = {label: (one.of(name), one.sparse_counted(name)) for one, label in having}
            there = {label: both for label, both in there.items() if any(each.sparse for each in both[0].values())}
            gpus, Ms = sharing({label: counted for label, (_, counted) in there.items()})
            if len(gpus) < 2:
                continue
            every = set.intersection(*(set(there[label][0]) for label in gpus))
            parts = means(
                Ms,
                {label: there[label][1] for label in gpus},
                protocols_of(summaries, labels, key, name, Ms),
                any((name, M) in one.outputs for one, label in having if label in gpus for M in Ms),
            )
            first = having[0][0]
            of = {"stage": key[0], "model": key[3], "dtype": key[4], "pattern": name.column, "what": first.what}
            of |= {"over": first.over, "n": len(Ms), "m": len(every), "parts": parts}
            more = beyond({label: there[label][1] for label in gpus}, Ms)
            more = joined([more, without({label: one for one, label in having if label in gpus}, name, Ms)], "")
            if others := [label for one, label in having if name in one.patterns() and label not in gpus]:
                sentences.append(
                    say(
                        "{stage} {model} {dtype} {pattern}, {what}, over {over}, geometric mean over {n} of the {m} M"
                        " that these have: {parts}{more}. None of these M counts for {others}.",
                        others=", ".join(others),
                        more=more,
                        **of,
                    )
                )
                continue
            sentences.append(
                say(
                    "{stage} {model} {dtype} {pattern}, {what}, over {over}, geometric mean over {n} of the {m} M"
                    " that all have: {parts}{more}.",
                    more=more,
                    **of,
                )
            )
    return [*settings_of(summaries, labels), *sentences] if sentences else []


def without(having, name, Ms):
    """A text on dense engines that lack a figure beside a pattern's ratio at some of the M; empty if none does.

    having: label -> Comparison.
    """
    parts = [
        say("{name} on {label} at M={Ms} ({why})", name=backend, label=label, Ms=found, why=why)
        for label, one in having.items()
        for backend, found, why in lacking_at(one, [(name, M) for M in Ms])
    ]
    return say("; without {parts}", parts=joined(parts, ", ")) if parts else ""


def sharing(counted):
    """(labels, M): the largest group of GPUs that share an M, and all M that they share. counted: label -> {M: …}."""
    holders = {M: [label for label in counted if M in counted[label]] for each in counted.values() for M in each}
    if not holders:
        return [], []

    def size(M):
        return len(holders[M]), sum(set(holders[M]) <= set(other) for other in holders.values()), M

    gpus = holders[max(holders, key=size)]
    return gpus, sorted(M for M, other in holders.items() if set(gpus) <= set(other))


def dense_engines(key, dense, there):
    """A list with a sentence on the fastest dense engines of two or more GPUs at the largest M that counts for all.

    Figures of different protocols are not divided by one another. dense: label -> what `fastest_dense` gives.
    there: labels of all that have a dense engine.
    """
    stage, column, model, dtype = key
    gpus, Ms = sharing(dense)
    if len(gpus) < 2:
        return []
    more = beyond({label: dense[label] for label in gpus}, Ms)
    if others := [label for label in there if label not in gpus]:
        more = say("{more}; none of these M counts on {others}", more=more, others=", ".join(others))
    dense = {label: dense[label][max(Ms)] for label in gpus}
    _, what, unit = next(figure for figure in FIGURES[stage] if figure[0] == column)
    rate = column == "tokens_per_s"
    ranked = sorted(dense, key=lambda label: dense[label].figure.value, reverse=rate)
    parts = [of_engine(label, dense[label], 0 if rate else 3, unit) for label in ranked]
    of = {"stage": stage, "model": model, "dtype": dtype, "what": what, "M": max(Ms)}
    of |= {"parts": joined(parts, ", "), "more": more}
    protocols = apart({label: dense[label].protocol for label in ranked})
    if any(protocols.values()):
        return [
            say(
                "{stage} {model} {dtype}, fastest dense engine, {what} at M={M}: {parts}{more}. Their protocols"
                " differ ({protocols}), so they are not divided by one another.",
                protocols=joined([label_and(label, [text]) for label, text in protocols.items()]),
                **of,
            )
        ]
    if (stage, column) == ("decode", "tokens_per_s") and not all(each.timed for each in dense.values()):
        of["more"] = joined([HOSTS, more], "")
    best, worst = (dense[label].figure.value for label in (ranked[0], ranked[-1]))
    of |= {"first": ranked[0], "last": ranked[-1], "ratio": fixed(best / worst if rate else worst / best, 2)}
    ways = unlike_settings({label: dense[label].settings for label in ranked})
    if ways:
        found = [label_and(label, texts) for label, texts in ways.items()]
        return [
            say(
                "{stage} {model} {dtype}, fastest dense engine, {what} at M={M}: {parts}; {first} is {ratio}"
                " times as fast as {last}, measured in unlike ways ({ways}){more}.",
                ways=joined(found),
                **of,
            )
        ]
    return [
        say(
            "{stage} {model} {dtype}, fastest dense engine, {what} at M={M}: {parts}; {first} is {ratio}"
            " times as fast as {last}{more}.",
            **of,
        )
    ]


def of_engine(label, fastest, digits, unit):
    """The fastest dense engine of one GPU as text, with the dense engines that have no figure there."""
    of = {"label": label, "value": fixed(fastest.figure.value, digits, True), "unit": unit}
    of["engine"] = fastest.name.column
    if fastest.lacking:
        names = ", ".join(fastest.lacking)
        return say("{label} {value} {unit} ({engine}, without {names})", names=names, **of)
    return say("{label} {value} {unit} ({engine})", **of)
