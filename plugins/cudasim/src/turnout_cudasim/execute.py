"""Running kernels: blocks in batches, threads that part and meet again, barriers.

All threads of a batch start together. Where a branch parts them, those at the lowest block of the program run first, so that they meet
again where their paths do; those that wait (barrier, warp instruction whose lanes are not all there) are left out. A group goes on without
a look at the others until it reaches a place where others are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from turnout_cudasim.access import NEVER
from turnout_cudasim.earlier import Earlier
from turnout_cudasim.hazards import Races
from turnout_cudasim.parse import Kernel
from turnout_cudasim.program import Program
from turnout_cudasim.report import SOFT, KernelFault, Kind, LaunchError, Point, Report
from turnout_cudasim.threads import Threads
from turnout_cudasim.translate import END, Block, Translation, translate

BATCH_THREADS = 49152  # threads that run together: enough to hide Python, few enough for the cache
BATCH_SHARED = 8 << 20  # bytes of shared memory of a batch
MAX_REPORTS = 100
RUNNING, AT_BARRIER, AT_WARP, AT_CLUSTER, DONE = range(5)
SPINS = 64  # jumps back that a part of the threads may make before the others get a turn
FUTILE = 2000  # rounds in which nobody gets anywhere, after which waiting is called deadlock
CODES = ("u1", "i1", "u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8")


def launch(
    program: Program,
    name: str,
    grid: Point,
    block: Point,
    parameters: bytes,
    *,
    cluster: Point = (1, 1, 1),
    dynamic_shared: int = 0,
    cooperative: bool = False,
    reports: list[Report] | None = None,
    max_steps: int = 2_000_000,
    earlier: Earlier | None = None,
) -> None:
    """Run a kernel to its end.

    `parameters` is laid out by `Kernel.parameters`. A finding raises KernelFault; with `reports`, those after which a GPU would go on are
    appended there and the kernel goes on. `earlier`: the launches of its graph that may still be running, on a GPU. Raises LaunchError for
    what a driver refuses and NotModelled for what is not simulated.
    """
    kernel = program.module.kernels.get(name)
    if kernel is None:
        raise LaunchError(f"no kernel {name!r} in this module", 500)
    if kernel.cluster is not None and cluster == (1, 1, 1):
        cluster = kernel.cluster
    _check(kernel, grid, block, cluster, dynamic_shared, parameters)
    translation = translate(kernel)
    launched = Launch(program, translation, grid, block, cluster, dynamic_shared, parameters, reports, max_steps, earlier)
    with np.errstate(all="ignore"):
        launched.run(cooperative)


def _check(kernel: Kernel, grid: Point, block: Point, cluster: Point, dynamic_shared: int, parameters: bytes) -> None:
    threads = block[0] * block[1] * block[2]
    if min(*grid, *block) < 1:
        raise LaunchError(f"grid {grid} and block {block} must be positive")
    if threads > 1024 or block[2] > 64:
        raise LaunchError(f"block {block} has {threads} threads; 1024 is the limit (64 in z)")
    if kernel.max_threads is not None and threads > kernel.max_threads:
        raise LaunchError(f"block {block} has {threads} threads; {kernel.name} was compiled for {kernel.max_threads}", 701)
    if kernel.required_threads is not None and block != kernel.required_threads:
        raise LaunchError(f"block {block} is not the required {kernel.required_threads} of {kernel.name}")
    if grid[0] >= 1 << 31 or grid[1] > 65535 or grid[2] > 65535:
        raise LaunchError(f"grid {grid} is larger than (2^31 - 1, 65535, 65535)")
    if any(g % c for g, c in zip(grid, cluster, strict=True)):
        raise LaunchError(f"grid {grid} is no multiple of the cluster {cluster}", 912)
    if cluster[0] * cluster[1] * cluster[2] > 16:
        raise LaunchError(f"cluster {cluster} has more than 16 blocks", 912)
    if kernel.static_shared + dynamic_shared > 232448:
        raise LaunchError(f"{kernel.static_shared + dynamic_shared} bytes of shared memory; 232448 is the limit")
    if len(parameters) < kernel.parameter_bytes:
        raise LaunchError(f"{len(parameters)} bytes of parameters; {kernel.name} takes {kernel.parameter_bytes}")


class Launch:
    """One launch: what all its batches share."""

    def __init__(
        self, program: Program, translation: Translation, grid: Point, block: Point, cluster: Point, dynamic_shared: int,
        parameters: bytes, reports: list[Report] | None, max_steps: int, earlier: Earlier | None,
    ) -> None:  # fmt: skip
        self.program, self.translation = program, translation
        self.memory = program.memory
        self.grid, self.block, self.cluster = grid, block, cluster
        self.dynamic_shared = dynamic_shared
        self.reports, self.max_steps, self.earlier = reports, max_steps, earlier
        self.parameters = np.frombuffer(parameters.ljust(len(parameters) + 16, b"\0"), np.uint8)
        self.parameter_bytes = len(parameters)
        self.cooperative = False
        self.seen: set[tuple[Kind, int]] = set()
        self.touched: set[int] = set()

    def run(self, cooperative: bool) -> None:
        self.cooperative = cooperative
        translation = self.translation
        size = self.block[0] * self.block[1] * self.block[2]
        in_cluster = self.cluster[0] * self.cluster[1] * self.cluster[2]
        shared = max(translation.kernel.dynamic_shared_start + self.dynamic_shared, translation.kernel.static_shared)
        order = self._block_order()
        per = max(1, min(BATCH_THREADS // size, BATCH_SHARED // max(shared, 1)))
        per = len(order) if cooperative else max(1, per // in_cluster) * in_cluster
        try:
            for first in range(0, len(order), per):
                batch = Batch(self, order[first : first + per], shared)
                batch.run()
            if self.earlier is not None:
                self.earlier.finish(batch.everyone, len(translation.instructions) - 1)
        finally:
            self.memory.settle(self.touched)

    def _block_order(self) -> Any:
        """Linear block numbers, cluster after cluster."""
        count = self.grid[0] * self.grid[1] * self.grid[2]
        if self.cluster == (1, 1, 1):
            return range(count)
        x, y, z = self.coordinates(np.arange(count))
        cx, cy, cz = self.cluster
        number = (z // cz * (self.grid[1] // cy) + y // cy) * (self.grid[0] // cx) + x // cx
        rank = (z % cz * cy + y % cy) * cx + x % cx
        return np.lexsort((rank, number))

    def coordinates(self, linear: Any) -> tuple[Any, Any, Any]:
        return linear % self.grid[0], linear // self.grid[0] % self.grid[1], linear // (self.grid[0] * self.grid[1])


class Batch:
    """Some blocks that run together: their registers, shared memory, and where each thread is."""

    def __init__(self, launched: Launch, blocks: Sequence[int], shared_bytes: int) -> None:
        self.launch = launched
        self.translation = launched.translation
        self.kernel = launched.translation.kernel
        self.memory = launched.memory
        self.symbols = launched.program.addresses
        self.touched = launched.touched
        self.owner: Any = None  # the allocation of the last access
        self.block_numbers = np.asarray(blocks)
        self.blocks = len(blocks)
        self.block_size = launched.block[0] * launched.block[1] * launched.block[2]
        self.cluster_size = launched.cluster[0] * launched.cluster[1] * launched.cluster[2]
        self.warps = -(-self.block_size // 32)
        self.count = self.blocks * self.block_size
        self.parameter_bytes = launched.parameter_bytes
        self.local_bytes = -(-self.translation.flat.local_bytes // 16) * 16
        self.shared_bytes = shared_bytes
        self.shared_stride = -(-(shared_bytes + 1) // 1024) * 1024 if shared_bytes else 16
        self.shared = np.full(self.blocks * self.shared_stride, 0xFF, np.uint8)
        self.shared_state = np.full(self.shared.size, NEVER, np.uint8)
        self.shared_state_views = {f"u{n}": self.shared_state.view(f"u{n}") for n in (1, 2, 4, 8)}
        self.local = np.zeros(max(self.count * self.local_bytes, 16), np.uint8)
        self._views: dict[tuple[str, str], Any] = {}
        self._memories = {"shared": self.shared, "local": self.local, "parameters": launched.parameters}
        grouped = self.warps * self.cluster_size
        self.races: Races | None = None
        if shared_bytes and grouped > 1:
            self.races = Races(self.blocks // self.cluster_size, grouped, self.shared.size, self.translation.granule)
        self.copies: Any = None  # asynchronous copies, made on first use
        self.barriers: Any = None  # mbarriers, made on first use
        self.earlier = launched.earlier
        self.waited = np.zeros(self.count if self.earlier is not None else 0, bool)  # griddepcontrol.wait
        self.aside = False  # a thread asked for others to go first
        self.waiting_at: int | None = None  # the instruction at which it waits in vain
        self.progress = 0  # counts events that a waiting thread may be waiting for

        self.everyone = Threads(self)
        homes = self.translation.homes
        self.registers: list[Any] = [np.dtype(home).type(0) for home in homes]
        self.owned = [False] * len(homes)  # whether an array is nobody else's, so that parts may be written in place
        self.at = np.zeros(self.count, np.int32)
        self.state = np.zeros(self.count, np.uint8)
        self.stepped_aside = np.zeros(self.count, bool)
        self.barrier_number = np.zeros(self.count, np.int64)
        self.barrier_count = np.zeros(self.count, np.int64)
        self.barrier_value = np.zeros(self.count, bool)
        self.arrived_early: dict[tuple[int, int], tuple[int, Any]] = {}  # bar.arrive: (block, barrier) -> (threads, what they know)
        self.cluster_arrived = np.zeros(self.count, bool)
        self.cluster_known: dict[int, Any] = {}
        self.steps = 0
        self.futile = 0

    # ---- what threads ask of their batch

    def view(self, name: str, code: str) -> Any:
        """Shared, local or parameter memory as an array of a type."""
        found = self._views.get((name, code))
        if found is None:
            memory = self._memories[name]
            found = self._views[name, code] = memory[: memory.size & ~7].view(code)
        return found

    def special(self, name: str, t: Threads) -> Any:
        """A special register (PTX ISA, section 10)."""
        launched = self.launch
        base, _, axis = name.partition(".")
        which = "xyz".find(axis) if axis else 0
        shape = {"ntid": launched.block, "nctaid": launched.grid, "cluster_nctaid": launched.cluster}.get(base)
        if shape is not None:
            return np.uint32(shape[which])
        if base == "nclusterid":
            return np.uint32(launched.grid[which] // launched.cluster[which])
        if base == "tid":
            x, y, _ = launched.block
            return ((t.linear % x, t.linear // x % y, t.linear // (x * y))[which]).astype(np.uint32)
        if base in ("ctaid", "clusterid", "cluster_ctaid"):
            place = launched.coordinates(self.block_numbers)[which]
            size = launched.cluster[which]
            value = place if base == "ctaid" else place // size if base == "clusterid" else place % size
            return self._per_block(value, t)
        if base == "cluster_ctarank":
            return self._per_block(np.arange(self.blocks) % self.cluster_size, t)
        if base.startswith("lanemask_"):
            one = np.uint64(1) << t.lane.astype(np.uint64)
            mask = {"eq": one, "lt": one - np.uint64(1), "le": one * np.uint64(2) - np.uint64(1)}.get(base[-2:])
            if mask is None:
                mask = ~(one * np.uint64(2) - np.uint64(1)) if base.endswith("gt") else ~(one - np.uint64(1))
            return mask.astype(np.uint32)
        if base == "laneid":
            return t.lane.astype(np.uint32)
        if base == "warpid":
            return (t.linear >> 5).astype(np.uint32)
        if base in ("clock", "clock64", "globaltimer", "globaltimer_lo"):
            return (np.uint64 if base in ("clock64", "globaltimer") else np.uint32)(self.steps)
        if base in ("envreg1", "envreg2"):
            address = launched.program.workspace if launched.cooperative else 0
            return np.uint32(address >> 32 if base == "envreg1" else address & 0xFFFFFFFF)
        total = self.shared_bytes
        values = {
            "nwarpid": 64, "nsmid": 132, "smid": 0, "cluster_nctarank": self.cluster_size, "dynamic_smem_size": launched.dynamic_shared,
            "total_smem_size": total, "aggr_smem_size": total,
        }  # fmt: skip
        if base == "is_explicit_cluster":
            return np.bool_(self.cluster_size > 1)
        return (np.uint64 if base in ("gridid", "current_graph_exec") else np.uint32)(values.get(base, 0))

    def _per_block(self, value: Any, t: Threads) -> Any:
        value = value.astype(np.uint32)
        return value[0] if self.blocks == 1 else value[t.block_row]

    def fault_limit(self, site: int) -> bool:
        """Whether one more report is wanted."""
        return self.launch.reports is None or len(self.launch.reports) < MAX_REPORTS

    def fault(self, kind: Kind, site: int, thread: int, message: str) -> None:
        """Report; go on only after soft findings, and only when they are collected."""
        launched = self.launch
        if (kind, site) in launched.seen and launched.reports is not None and kind in SOFT:
            return
        launched.seen.add((kind, site))
        linear = thread % self.block_size
        x, y, _ = launched.block
        number = int(self.block_numbers[thread // self.block_size])
        instruction = self.translation.instructions[min(site, len(self.translation.instructions) - 1)]
        bx, by, bz = launched.coordinates(number)
        report = Report(
            kind, self.kernel.name, (int(bx), int(by), int(bz)), (linear % x, linear // x % y, linear // (x * y)),
            instruction.location, message, str(instruction),
        )  # fmt: skip
        if launched.reports is None:
            raise KernelFault(report)
        launched.reports.append(report)
        if kind not in SOFT:
            raise KernelFault(report)

    # ---- running

    def run(self) -> None:
        """Run every thread to its end."""
        blocks = self.translation.blocks
        group: Threads | None = self.everyone
        number, horizon, spins = 0, END, 0
        while True:
            if group is None:
                chosen = self._choose()
                if chosen is None:
                    return
                group, number, horizon = chosen
                spins = 0
            block = blocks[number]
            if block.mask is not None and not (group.everyone and group.whole_warps):
                group = self._bring_together(group, block)
                if group is None:
                    continue
            control = self._step(block, group)
            if block.exit == "fall" or block.exit == "jump":
                following = block.targets[0]
            elif block.exit == "branch":
                decided = self._branch(block, group, control)
                if decided is None:
                    group = None
                    continue
                following = decided
            else:
                group = self._stop(block, group, control)
                if group is None:
                    continue
                following = block.targets[0]
            if following == END:
                self._finish(group)
                group = None
                continue
            if following <= number:
                spins += 1
            if self.aside or (spins > SPINS and not group.everyone):
                spins = 0
                self.progress += not self.aside  # who only loops may yet get somewhere
                self.at[group.index] = following
                self._set_aside(group)
                group = None
            elif following < horizon:
                number = following
            else:
                self.at[group.index] = following
                group = None

    def _step(self, block: Block, group: Threads) -> Any:
        """Run a basic block for a group; returns the value that its end depends on."""
        self.steps += 1
        if self.steps > self.launch.max_steps:
            message = f"still running after {self.launch.max_steps} basic blocks"
            self.fault(Kind.ENDLESS_LOOP, block.first, int(group.index[0]), message)
        code = block.code or self.translation.compile(block)
        registers = self.registers
        if group.everyone:
            results, control = code(group, *[registers[k] for k in block.reads])
            owned = self.owned
            for k, value in zip(block.writes, results, strict=True):
                registers[k] = value
                owned[k] = False
            for k in block.reads:  # what a mov reads lies in the register that it writes from now on, too
                owned[k] = False
            return control
        index = group.index
        values = [v if not v.ndim else v.take(index) for v in [registers[k] for k in block.reads]]
        results, control = code(group, *values)
        for k, value in zip(block.writes, results, strict=True):
            self.put(k, index, value)
        return control

    def put(self, k: int, index: Any, value: Any) -> None:
        """Write a register of some threads."""
        register = self.registers[k]
        if not self.owned[k]:
            register = register.copy() if register.ndim else np.full(self.count, register)
            self.registers[k] = register
            self.owned[k] = True
        register[index] = value

    def _branch(self, block: Block, group: Threads, taken: Any) -> int | None:
        """Where all go; None if they part."""
        target, after = block.targets
        if not taken.ndim:
            return target if taken else after
        count = int(np.count_nonzero(taken))
        if count == group.count:
            return target
        if count == 0:
            return after
        where = np.where(taken, target, after)
        self.at[group.index] = where
        if END in (target, after):
            self._finish(group.take(np.flatnonzero(where == END)))
        return None

    def _stop(self, block: Block, group: Threads, control: Any) -> Threads | None:
        """The ends of a block that are neither falls nor branches. The group, if it goes on at once."""
        if block.exit == "switch":
            index = np.minimum(group.spread(control), len(block.targets) - 1).astype(np.intp)
            self.at[group.index] = np.asarray(block.targets)[index]
            return None
        self.at[group.index] = block.number
        if block.exit == "cluster":
            self.state[group.index] = AT_CLUSTER
            self._release_clusters()
            return None
        number, count, predicate = control
        self.barrier_number[group.index] = number
        self.barrier_count[group.index] = count
        if predicate is not None:
            self.barrier_value[group.index] = predicate
        if group.everyone and predicate is None and not getattr(number, "ndim", 0) and not int(count) and not self.arrived_early:
            if self.races is not None:
                self._join_blocks(np.arange(self.blocks))
            return group
        self.state[group.index] = AT_BARRIER
        self._release_barriers()
        return None

    def _join_blocks(self, rows: Any) -> None:
        """The warps of whole blocks have met."""
        assert self.races is not None
        if self.cluster_size == 1:
            self.races.join(rows)
        else:
            for row in rows:
                self.races.join_rows(row * self.warps + np.arange(self.warps))

    def _finish(self, group: Threads) -> None:
        self.at[group.index] = END
        self.state[group.index] = DONE
        if (self.state == AT_BARRIER).any():
            self._release_barriers()
        if (self.state == AT_CLUSTER).any():
            self._release_clusters()

    # ---- who is next

    def _choose(self) -> tuple[Threads, int, int] | None:
        """The running threads at the lowest block, where they are, and the next block where others are. None: all are done."""
        while True:
            ready = (self.state == RUNNING) & ~self.stepped_aside
            if ready.any():
                break
            if self.stepped_aside.any():
                self.stepped_aside[:] = False
                self._note_waiting()
            elif (self.state == DONE).all():
                return None
            else:
                self._deadlock()
        number = int(self.at[ready].min())
        mask = self.translation.blocks[number].mask
        here = ready & (self.at == number)
        if mask is not None:
            here |= (self.state == AT_WARP) & (self.at == number)
            self.state[here] = RUNNING
        others = ready & ~here
        horizon = int(self.at[others].min()) if others.any() else END
        members = np.flatnonzero(here)
        group = self.everyone if members.size == self.count else Threads(self, members)
        if (self.state == AT_WARP).any():
            horizon = min(horizon, int(self.at[self.state == AT_WARP].min())) if horizon > number else horizon
        return group, number, max(horizon, number + 1) if horizon <= number else horizon

    def _set_aside(self, group: Threads) -> None:
        """Let others run."""
        self.aside = False
        self.stepped_aside[group.index] = True

    def _note_waiting(self) -> None:
        """Everybody has stepped aside once more: if that brings nobody on who waits for an mbarrier, nothing ever will."""
        self.futile = 0 if self.progress or self.waiting_at is None else self.futile + 1
        self.progress = 0
        if self.futile > FUTILE:
            waiting = np.flatnonzero(self.state == RUNNING)
            message = "waits for an mbarrier whose phase nobody is left to complete"
            self.fault(Kind.BARRIER_DEADLOCK, self.waiting_at or 0, int(waiting[0]), message)
        self.waiting_at = None

    # ---- warps

    def _bring_together(self, group: Threads, block: Block) -> Threads | None:
        """The part of a group whose lanes are all there; the others wait for theirs."""
        mask: Any = block.mask
        if isinstance(mask, str):
            value = self.registers[self.translation.index[mask]]
            mask = value.take(group.index).view(np.uint32) if value.ndim else value.view(np.uint32)
        lanes = np.zeros((self.blocks * self.warps, 2), np.uint32)  # per warp: here, alive
        bit = np.uint32(1) << group.lane.astype(np.uint32)
        np.bitwise_or.at(lanes[:, 0], group.warp_row, bit)
        alive = np.flatnonzero(self.state != DONE)
        everyone = self.everyone
        np.bitwise_or.at(lanes[:, 1], everyone.warp_row[alive], np.uint32(1) << everyone.lane[alive].astype(np.uint32))
        wanted = (np.broadcast_to(np.uint32(mask) if isinstance(mask, int) else mask, (group.count,))) & lanes[group.warp_row, 1]
        missing = (wanted & ~lanes[group.warp_row, 0]) != 0
        if not missing.any():
            return group
        waits = group.index[missing]
        self.state[waits] = AT_WARP
        self.at[waits] = block.number
        if missing.all():
            return None
        return group.take(np.flatnonzero(~missing))

    # ---- barriers

    def _release_barriers(self) -> None:
        """Let go every barrier at which enough threads have arrived."""
        waiting = np.flatnonzero(self.state == AT_BARRIER)
        if not waiting.size:
            return
        key = (waiting // self.block_size) * 16 + self.barrier_number[waiting]
        arrived = np.bincount(key, minlength=self.blocks * 16)
        alive = np.bincount(np.flatnonzero(self.state != DONE) // self.block_size, minlength=self.blocks)
        for which in np.unique(key):
            row, number = divmod(int(which), 16)
            members = waiting[key == which]
            counts = self.barrier_count[members]
            expected = int(counts[0]) or int(alive[row])
            early, known = self.arrived_early.get((row, number), (0, None))
            if int(arrived[which]) + early >= expected:
                self.arrived_early.pop((row, number), None)
                self._release(row, members, known, bool(counts[0]))

    def _release(self, row: int, members: Any, known: Any, counted: bool) -> None:
        """Threads of one block leave a barrier together."""
        block = self.translation.blocks[int(self.at[members[0]])]
        self._check_divergence(members)
        if self.races is not None:
            rows = np.unique(self.everyone.warp_row[members])
            self.races.join_rows(rows, known)
        last = self.translation.instructions[block.last - 1]
        if last.has("red"):
            values = self.barrier_value[members]
            result = values.sum() if last.has("popc") else values.all() if last.has("and") else values.any()
            for number in np.unique(self.at[members]):
                instruction = self.translation.instructions[self.translation.blocks[number].last - 1]
                register = self.translation.index.get(instruction.operands[0])
                if register is not None:
                    self.put(register, members[self.at[members] == number], result)
        self.at[members] += 1
        self.state[members] = RUNNING
        self.progress += 1
        over = members[self.at[members] >= len(self.translation.blocks)]
        if over.size:
            self.at[over] = END
            self.state[over] = DONE

    def _check_divergence(self, members: Any) -> None:
        """The lanes of a warp must come to an .aligned barrier together, by the same instruction."""
        at = self.at[members]
        instruction = self.translation.instructions[self.translation.blocks[int(at[0])].last - 1]
        if instruction.name == "barrier" and not instruction.has("aligned"):
            return
        rows = self.everyone.warp_row[members]
        first = np.searchsorted(rows, rows)  # members are in order, so each warp's lanes are neighbours
        differs = at != at[first]
        if differs.any():
            position = int(differs.argmax())
            other = self.translation.instructions[self.translation.blocks[int(at[first[position]])].last - 1].location
            message = f"its warp is split: lane {int(self.everyone.lane[members[first[position]]])} waits at {other}"
            site = self.translation.blocks[int(at[position])].last - 1
            self.fault(Kind.DIVERGENT_BARRIER, site, int(members[position]), message)
        size = np.bincount(rows - rows[0])
        for row in np.flatnonzero(size) + rows[0]:
            lanes = np.flatnonzero(self.everyone.warp_row == row)
            if size[row - rows[0]] != lanes.size:
                missing = lanes[~np.isin(lanes, members)]
                first_missing = int(self.everyone.lane[missing[0]])
                message = f"its warp is split: {missing.size} of {lanes.size} lanes do not come, the first is lane {first_missing}"
                here = members[rows == row][0]
                self.fault(Kind.DIVERGENT_BARRIER, self.translation.blocks[int(self.at[here])].last - 1, int(here), message)

    def arrive_early(self, t: Threads, number: Any, count: Any) -> None:
        """bar.arrive"""
        numbers = t.spread(number)
        for row in np.unique(t.block_row):
            here = t.block_row == row
            which = int(numbers[here][0])
            known = None
            if self.races is not None:
                known = self.races.publish(np.unique(t.warp_row[here]))
            before, before_known = self.arrived_early.get((int(row), which), (0, None))
            if before_known is not None and known is not None:
                known = np.maximum(known, before_known)
            self.arrived_early[int(row), which] = (before + int(here.sum()), known)
        self._release_barriers()

    def _release_clusters(self) -> None:
        """barrier.cluster: all live threads of the cluster must have arrived."""
        cluster_of = np.arange(self.count) // (self.block_size * self.cluster_size)
        waiting = self.state == AT_CLUSTER
        for which in np.unique(cluster_of[waiting]):
            members = cluster_of == which
            if (self.cluster_arrived[members] | (self.state[members] == DONE)).all():
                leaving = members & waiting
                self.cluster_arrived[members] = False
                if self.races is not None:
                    self.races.join(np.array([which]))
                self.at[leaving] += 1
                self.state[leaving] = RUNNING
                self.progress += 1

    def _deadlock(self) -> None:
        """Nobody can go on: say who waits for whom."""
        waiting = np.flatnonzero((self.state != DONE) & (self.state != RUNNING))
        thread = int(waiting[0])
        block = self.translation.blocks[int(self.at[thread])]
        row = thread // self.block_size
        mates = np.flatnonzero((np.arange(self.count) // self.block_size == row) & (self.state != DONE))
        if self.state[thread] == AT_WARP:
            warp = self.everyone.warp_row
            absent = mates[(warp[mates] == warp[thread]) & (self.at[mates] != self.at[thread])]
            where = self._where(int(absent[0])) if absent.size else "nowhere"
            lane = int(self.everyone.lane[absent[0]]) if absent.size else -1
            message = f"waits for lane {lane}, which its mask names and which waits at {where}"
            self.fault(Kind.SHUFFLE_MASK, block.first, thread, message)
        elsewhere = mates[self.at[mates] != self.at[thread]]
        done = self.block_size - mates.size
        here = mates.size - elsewhere.size
        others = (
            f"{elsewhere.size} wait elsewhere, the first at {self._where(int(elsewhere[0]))}" if elsewhere.size else "none waits elsewhere"
        )
        message = f"waits for ever: {here} of {self.block_size} threads of its block came, {done} have ended, {others}"
        self.fault(Kind.BARRIER_DEADLOCK, block.last - 1, thread, message)

    def _where(self, thread: int) -> str:
        block = self.translation.blocks[int(self.at[thread])]
        site = block.first if self.state[thread] == AT_WARP else block.last - 1
        return str(self.translation.instructions[site].location)
