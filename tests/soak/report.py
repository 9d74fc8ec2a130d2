"""What a run looked like. Owns the plots and the summary; judges nothing."""

import html
import itertools
import math

from measure import MIB

WIDTH, PANEL_HEIGHT, COLUMNS = 900, 170, 2
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 30, 24
POINTS_MAX = 300
# About what a letter takes; legends are set by it.
LETTER_WIDTH = 5.6
COLOURS = ("#2b6cb0", "#c05621", "#2f855a")
STYLE = "text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:12px}.grid{stroke:#ddd}"
STYLE += ".warm-up{fill:#f4f4f4}polyline{fill:none;stroke-width:1.2}"


def column(name, divisor=1):
    """A line of a plot: a column of the samples in some unit."""
    return lambda samples: [getattr(sample, name) / divisor for sample in samples]


def rate(name, factor=1):
    """A line of a plot: how fast a column of the samples grows in a second."""

    def points(samples):
        rates = []
        for before, after in itertools.pairwise(samples):
            # A restart of the service sets counters back.
            grown = max(getattr(after, name) - getattr(before, name), 0)
            rates.append(factor * grown / max(after.seconds - before.seconds, 0.1))
        return rates[:1] + rates

    return points


PANELS = {
    "memory, MiB": {"VmRSS": column("resident_bytes", MIB), "RssAnon": column("anonymous_bytes", MIB)},
    "data directory, MiB": {
        "disk": column("disk_bytes", MIB),
        "events": column("log_bytes", MIB),
        "write-ahead log": column("log_wal_bytes", MIB),
    },
    "file descriptors": {"descriptors": column("descriptors"), "gRPC connections": column("grpc_connections")},
    "threads, streams": {"threads": column("threads"), "streams": column("streams")},
    "subscriptions, events": {"backlog": column("subscription_backlog"), "dead letters": column("dead_letters")},
    "processor, % of a core": {
        "service": rate("service_cpu_seconds", 100),
        "clients": rate("clients_cpu_seconds", 100),
    },
}


def thinned(values):
    """As many values as can be told apart, the last among them."""
    step = -(-len(values) // POINTS_MAX)
    return values[::-1][::step][::-1]


def round_up(value):
    """The end of an axis that holds this value: a round number, and so is half of it."""
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)


def panel(title, lines, samples, left, top):
    """One plot."""
    width, height = WIDTH / COLUMNS - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
    span = max(samples[-1].seconds, 1)
    values = {name: points(samples) for name, points in lines.items()}
    most = round_up(max(max(line) for line in values.values()))

    def x(seconds):
        return left + LEFT + width * seconds / span

    def y(value):
        return top + TOP + height * (1 - value / most)

    parts = [f'<text class="title" x="{left + LEFT}" y="{top + 16}">{html.escape(title)}</text>']
    parts.append(f'<rect class="warm-up" x="{x(0):.1f}" y="{top + TOP}" width="{width / 4:.1f}" height="{height}"/>')
    for value in (0, most / 2, most):
        label = f"{value:g}"
        parts.append(f'<line class="grid" x1="{x(0):.1f}" x2="{x(span):.1f}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text text-anchor="end" x="{x(0) - 5:.1f}" y="{y(value) + 4:.1f}">{label}</text>')
    unit, seconds_in_unit = ("min", 60) if span >= 300 else ("s", 1)
    for seconds, anchor in ((0, "start"), (span / 2, "middle"), (span, "end")):
        label = f"{seconds / seconds_in_unit:.0f} {unit}"
        parts.append(f'<text text-anchor="{anchor}" x="{x(seconds):.1f}" y="{top + PANEL_HEIGHT - 8}">{label}</text>')
    times = thinned([sample.seconds for sample in samples])
    for colour, line in zip(COLOURS, values.values()):
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in zip(times, thinned(line)))
        parts.append(f'<polyline stroke="{colour}" points="{points}"/>')
    right = x(span)
    for colour, name in reversed(list(zip(COLOURS, values))):
        colour_name = f'text-anchor="end" style="fill:{colour}"'
        parts.append(f'<text {colour_name} x="{right:.1f}" y="{top + 16}">{html.escape(name)}</text>')
        right -= LETTER_WIDTH * len(name) + 12
    return "".join(parts)


def draw(samples):
    """All plots as one SVG; the warm-up is grey."""
    rows = -(-len(PANELS) // COLUMNS)
    height = rows * PANEL_HEIGHT
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">']
    parts.append(f'<style>{STYLE}</style><rect width="{WIDTH}" height="{height}" fill="#fff"/>')
    for number, (title, lines) in enumerate(PANELS.items()):
        row, place = divmod(number, COLUMNS)
        parts.append(panel(title, lines, samples, place * WIDTH / COLUMNS, row * PANEL_HEIGHT))
    return "\n".join([*parts, "</svg>", ""])


def amount(growth, value):
    """A value as people read it."""
    return f"{value / MIB:.1f} MiB" if growth.flat.column.endswith("_bytes") else f"{value:.0f}"


def summarize(run, growths):
    """The summary as a fragment of Markdown."""
    counts = run.claims.counts
    service, clients = (
        f"{100 * run.measurements.cpu_share(column):.0f} %" for column in ("service_cpu_seconds", "clients_cpu_seconds")
    )
    load = (
        f"{'With restarts' if run.restarts else 'One process'}, {run.duration_seconds} s at {run.rate:g} deliveries a "
        f"second (seed {run.seed}): {run.ledger.accepted} events, {counts['duplicates']} duplicates, "
        f"{counts['forgeries']} forgeries; {counts['visits']} streams came and went, {counts['clients that vanished']} "
        f"vanished; {counts['subscriptions']} subscriptions settled {counts['events settled']} events in "
        f"{counts['attempts']} attempts, {counts['dead letters']} dead letters among them; {counts['endpoints']} "
        f"endpoints, {counts['tokens']} tokens and {counts['certificates']} certificates came and went. The service "
        f"took {service} of a core, the clients {clients}."
    )
    lines = [load, "", "| what must not grow | second quarter | last quarter | |", "|---|---:|---:|---|"]
    for growth in growths:
        verdict = "flat" if growth.within() else "**grows**"
        before, after = amount(growth, growth.before), amount(growth, growth.after)
        lines.append(f"| {growth.flat.name} | {before} | {after} | {verdict} |")
    lines += ["", "![Memory, disk, descriptors, threads, subscriptions and processor time](soak.svg)", ""]
    if run.claims.failures:
        lines += ["Failed:", "", *(f"- {claim} ({times})" for claim, times in run.claims.failures.items()), ""]
    else:
        lines += ["All claims hold.", ""]
    return "\n".join(lines)
