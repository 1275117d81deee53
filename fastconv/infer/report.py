"""Where the time of a compiled network goes, and why each node is computed as it is."""

from dataclasses import dataclass
from statistics import median

from ..simd import isa
from .storage import nbytes


@dataclass(frozen=True)
class NodeTime:
    """One node's part of a run.  milliseconds: the median; share: of the whole, 0 to 1; gflops and gbytes: 10^9
    operations and bytes (operands and results, each once) per second."""

    name: str
    op: str
    algorithm: str
    shape: tuple | None
    milliseconds: float
    share: float
    gflops: float
    gbytes: float


class Profile:
    """Times of every node that runs, in order: `nodes`, a list of NodeTime; `milliseconds`, of all together.  As text
    it is a table; `by_algorithm()` adds up."""

    def __init__(self, plan, runs):
        steps = [step for step, _ in runs[0]]
        times = [median(run[i][1] for run in runs) / 1e6 for i in range(len(steps))]
        self.milliseconds = sum(times)
        self.nodes = [_node_time(plan, *pair, self.milliseconds) for pair in zip(steps, times, strict=True)]

    def by_algorithm(self):
        """{algorithm: milliseconds}, the slowest first."""
        found = {}
        for node in self.nodes:
            found[node.algorithm] = found.get(node.algorithm, 0.0) + node.milliseconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def __str__(self):
        lines = [f"{'node':28} {'output':20} {'algorithm':30} {'ms':>8} {'share':>6} {'GFLOP/s':>8} {'GB/s':>6}"]
        for n in self.nodes:
            shape = "?" if n.shape is None else "x".join(map(str, n.shape))
            lines.append(
                f"{n.name[:28]:28} {shape:20} {n.algorithm[:30]:30} {n.milliseconds:8.3f} {n.share:6.1%} "
                f"{n.gflops:8.1f} {n.gbytes:6.1f}"
            )
        lines.append(f"{len(self.nodes)} nodes, {self.milliseconds:.3f} ms")
        return "\n".join(lines)


def _node_time(plan, step, milliseconds, total):
    node, emission = step.node, step.emission
    values = [plan.types[name] for name in (*node.inputs, *node.outputs) if name]
    moved = sum(nbytes(t) for t in values if t.shape is not None)
    seconds = max(milliseconds, 1e-6) / 1e3
    return NodeTime(
        name=node.name or node.outputs[0],
        op=node.op,
        algorithm=emission.algorithm if emission else "Python",
        shape=plan.types[node.outputs[0]].shape,
        milliseconds=milliseconds,
        share=milliseconds / total if total else 0.0,
        gflops=(emission.flops if emission else 0) / seconds / 1e9,
        gbytes=moved / seconds / 1e9,
    )


def explanation(plan):
    """For every node: the algorithm, what was fused into it, where its result lies, and what was refused and why."""
    lines = [f"{len(plan.steps)} nodes, {plan.arena_bytes / 1e6:.2f} MB for values in between, {isa.name}"]
    for step in plan.steps:
        node = step.node
        how = "nothing to do" if step.free else step.emission.algorithm if step.emission else "a step of Python"
        lines.append(f"{node}: {how}")
        shared = plan.storage.shared.get(node.outputs[0])
        if shared:
            lines.append(f"    {node.outputs[0]} {shared}")
        lines += [f"    {note}" for note in node.notes]
    return "\n".join(lines)
