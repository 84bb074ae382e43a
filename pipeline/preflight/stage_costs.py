"""Each stage's rows, files, bytes, seconds and memory, scaled up from what a sample took."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.config import OBJECTIVES, Config, Policy, Training
from pipeline.config_file import to_toml
from pipeline.metrics import submission
from pipeline.preflight.counts import Counts, makespan
from pipeline.preflight.rehearsal import FUSIONS, Rate, Rehearsed
from pipeline.preflight.sample_clips import CODECS, Sample, SampledVideo
from pipeline.preflight.sample_prepare import PrepareCost
from pipeline.preflight.sample_stores import SampledStores, StoreCost
from pipeline.preflight.sample_training import TrainingCost
from pipeline.workers.device import pick_device

PREPARED = 7  # config.toml, videos.csv, skipped.csv, labels.csv, classes.txt, and two locks
MODEL_FILES = 5  # beside checkpoints: weights, what it was made from, provenance, metrics, lock
MODEL_TEXT = 6500  # bytes of those of them that are text
RESULT_FILES, RESULT_TEXT = 3, 1400  # of one model: facts, scores, APs by class
PLAN_ROW, PLAN_VIDEO = 4, 95  # bytes that a further row and a further video add to the plan's Parquet


@dataclass(frozen=True)
class StageForecast:
    """One stage.

    Attributes:
        rows: planned rows; for prepare videos, for trainings clips that are seen.
        files, bytes: on disk when it has ended; bytes by codec.
        seconds: on this machine. memory: peak bytes of one of its processes. processes: that work at a time.
    """

    stage: str
    rows: int
    files: int
    bytes: dict[str, int]
    seconds: float
    memory: int
    processes: int


@dataclass(frozen=True)
class Startup:
    """A process that imports what a stage needs, and ends.

    Attributes:
        seconds: of both.
        memory: resident bytes. ending: further ones while it ends, when libraries tidy up.
    """

    seconds: float
    memory: int
    ending: int


@dataclass(frozen=True)
class Measured:
    """Everything that was measured, and the stages that follow from it.

    Attributes:
        config, counts: what is planned. policies: boxes that crops will be asked for.
        samples: one of each process. stores: by split. trainings: by name, see FUSIONS, and "base".
        rehearsed: stages 1 and 2, and what trainings read. prepared: prepare without decoding.
        starts: of "prepare", "stage" and "training". pool_seconds: to start workers. made_seconds: to generate the
            miniature; 0 for other data.
    """

    config: Config
    counts: Counts
    policies: tuple[Policy, ...]
    samples: list[Sample]
    stores: dict[str, SampledStores]
    trainings: dict[str, TrainingCost]
    rehearsed: Rehearsed
    prepared: PrepareCost
    starts: dict[str, Startup]
    pool_seconds: float
    made_seconds: float = 0.0

    @cached_property
    def videos(self) -> list[SampledVideo]:
        """All sampled videos."""
        return [video for sample in self.samples for video in sample.videos]

    def stages(self) -> list[StageForecast]:
        """All stages in their order."""
        return [
            *(self._prepare(), self._train_base(), self._saliency(), self._crops()),
            self._fusion(),
            self._evaluate(),
        ]

    def _mean(self, split: str, value: Callable[[SampledVideo], float]) -> float:
        """Over the sampled videos of a split; of the other one where this has none."""
        own = [video for video in self.videos if video.part.split == split] or self.videos
        return float(np.mean([value(video) for video in own]))

    def _cost(self, split: str, *key) -> StoreCost:
        """Of one product, of a split that was sampled; of the other where this one was not."""
        own = [stores.costs[key] for name, stores in sorted(self.stores.items(), key=lambda one: one[0] != split)
               if key in stores.costs]  # fmt: skip
        return own[0]

    def _stored(self, *key) -> tuple[int, int]:
        """(bytes, files) of one product with these settings in all parts."""
        num_bytes = files = 0
        for part in self.counts.parts:
            cost = self._cost(part.split, *key)
            num_bytes += cost.part_bytes + sum(cost.of_unit(videos * part.rows_per_video) for videos in part.units)
            files += cost.part_files + cost.unit_files * len(part.units)
        return round(num_bytes), files

    def _prepare(self) -> StageForecast:
        counts, config = self.counts, self.config
        videos = sum(counts.videos(split) for split in ("train", "test"))
        line = self._mean("train", lambda video: len(",".join(map(str, video.row.values()))) + 3)
        size = counts.text_bytes + videos * line + len(to_toml(config))
        for part in counts.parts:
            own = [video for video in self.videos if video.part.split == part.split] or self.videos
            rows = sum(len(video.rows) for video in own)
            size += self.stores[own[0].part.split].plan_bytes
            size += (part.num_rows - rows) * PLAN_ROW + (part.num_videos - len(own)) * PLAN_VIDEO
        probe = sum(
            counts.videos(split) * self._mean(split, lambda one: one.probe_seconds) for split in ("train", "test")
        )
        prober = max(sample.prober_seconds for sample in self.samples)
        seconds = self.starts["prepare"].seconds + self.prepared.seconds + self.made_seconds
        seconds += prober + probe / config.workers
        memory = self.starts["prepare"].memory + self.prepared.memory
        memory = max(memory, *(sample.prober_bytes for sample in self.samples))
        files = PREPARED + 2 * len(counts.parts)
        return self._stage("prepare", videos, files, size, seconds, memory, config.workers)

    def _train_base(self) -> StageForecast:
        config, counts, base = self.config, self.counts, self.config.base
        videos, cost = counts.videos("train"), self.trainings.get("base")
        if cost is None:  # taken as it is
            late = self.trainings.get("late")
            size = late.weights_bytes if late else 0
            start = self.starts["stage"]
            return self._stage("train-base", 0, 3, size, start.seconds, start.memory + start.ending + 4 * size, 1)
        reading, held = 0.0, 0
        if base.in_memory:
            reading = self.pool_seconds + videos / config.workers * self.rehearsed.hold
            frames = self._mean("train", lambda one: one.row["num_frames"])
            held = round(videos * frames * config.clips.resized_side**2 * 3)
        training = self._training_seconds(base, cost, videos, self.rehearsed.base_load)
        seconds = self.starts["training"].seconds + self.prepared.labels_seconds + reading + training
        size, files = self._model(cost, base.epochs)
        memory = self._training_memory(cost) + held
        return self._stage("train-base", base.epochs * videos, files, size, seconds, memory, 1)

    def _saliency(self) -> StageForecast:
        looks = self.config.saliency.objectives
        keys = [("base",), *(("maps", name) for name in looks), *[("boxes",)] * len(looks)]
        size, files = (sum(values) for values in zip(*(self._stored(*key) for key in keys), strict=True))
        on_cpu = pick_device(self.config).type == "cpu"
        workers = min(self.config.workers, sum(len(part.units) for part in self.counts.parts)) if on_cpu else 1
        seconds = self._working(workers, self.rehearsed.saliency)
        side, rows = self.config.clips.input_side, self._unit_rows()
        memory = self._worker_memory(self.rehearsed.saliency) + 4 * rows * side**2 * len(looks)
        return self._stage("saliency", self.counts.rows("train", "test"), files, size, seconds, memory, workers)

    def _crops(self) -> StageForecast:
        size, files = dict.fromkeys(CODECS, 0), 0
        searched = [policy for policy in self.policies if policy not in OBJECTIVES]
        for codec in CODECS:
            stored = [self._stored("context", codec), *[self._stored("crops", codec)] * len(self.policies)]
            stored += [self._stored("boxes")] * len(searched)
            size[codec], files = (sum(values) for values in zip(*stored, strict=True))
        workers = min(self.config.workers, sum(len(part.units) for part in self.counts.parts))
        unit_bytes = self._unit_rows() * max(
            self._cost("train", name, codec).row_bytes for name in ("context", "crops")
        )
        memory = self._worker_memory(self.rehearsed.crops) + round(unit_bytes) * (3 + len(self.policies))
        rows = self.counts.rows("train", "test")
        seconds = self._working(workers, self.rehearsed.crops)
        return self._stage("crops", rows, files, size, seconds, memory, workers)

    def _fusion(self) -> StageForecast:
        videos, fusion, size, files = self.counts.videos("train"), self.config.fusion, 0, 0
        seconds = self.starts["training"].seconds + self.prepared.labels_seconds
        costs = [self.trainings[name] for name in FUSIONS if name in self.trainings]
        for name, cost in zip(FUSIONS, costs, strict=False):
            seconds += self._training_seconds(fusion, cost, videos, self.rehearsed.load[name])
            size, files = (a + b for a, b in zip((size, files), self._model(cost, fusion.epochs), strict=True))
        memory = max(map(self._training_memory, costs), default=self.starts["stage"].memory)
        rows = len(costs) * fusion.epochs * videos
        return self._stage("train-fusion", rows, files, size, seconds, memory, 1)

    def _evaluate(self) -> StageForecast:
        rows, videos = self.counts.rows("test"), self.counts.videos("test")
        costs = [self.trainings[name] for name in FUSIONS if name in self.trainings]
        start = self.starts["stage"]
        seconds = start.seconds + self.prepared.labels_seconds + rows * self.rehearsed.truth
        seconds += sum(
            cost.ready_seconds + rows * (cost.forward_seconds + self.rehearsed.load[name])
            for name, cost in zip(FUSIONS, costs, strict=False)
        )
        digits = np.random.default_rng(0).random((1, self.counts.num_classes), np.float32)
        scores = 10 ** (-4 * digits)  # most are small
        own = len(submission(["A0000"], scores)) * videos + self.counts.class_bytes + RESULT_TEXT
        size = own * (1 + len(costs))
        batch = min(self.config.fusion.batch_size, rows)
        needs = [3 * cost.weights_bytes + batch * cost.forward_bytes for cost in costs]
        memory = start.memory + max(needs, default=0)
        files = RESULT_FILES * (1 + len(costs)) + 1
        return self._stage("evaluate", (1 + len(costs)) * rows, files, size, seconds, memory, 1)

    def _stage(
        self, name: str, rows: int, files: int, size, seconds: float, memory: float, processes: int
    ) -> StageForecast:
        by_codec = size if isinstance(size, dict) else dict.fromkeys(CODECS, round(size))
        return StageForecast(name, rows, files, by_codec, float(seconds), round(memory), processes)

    def _training_seconds(self, training: Training, cost: TrainingCost, videos: int, load: float) -> float:
        """Of all epochs. Batches are read ahead, which costs no time where a GPU computes or workers have own cores."""
        batch, readers = min(training.batch_size, videos), training.loader_workers
        loading = load * batch
        shares = not readers and pick_device(self.config).type == "cpu"  # one thread reads on the network's cores
        step = cost.step_seconds + loading if shares else max(cost.step_seconds, loading / max(readers, 1))
        epochs = training.epochs * (step * videos / batch + cost.save_seconds)  # the last batch may be a short one
        return cost.start_seconds + epochs + cost.save_seconds  # then the weights are saved

    def _model(self, cost: TrainingCost, epochs: int) -> tuple[int, int]:
        """(bytes, files) of a trained model; its last two checkpoints stay."""
        kept = min(2, epochs)
        return cost.weights_bytes + kept * cost.checkpoint_bytes + MODEL_TEXT, MODEL_FILES + kept

    def _training_memory(self, cost: TrainingCost) -> int:
        """At work or as it ends, whichever is more."""
        return max(cost.memory, cost.left + self.starts["training"].ending)

    def _worker_memory(self, rate: Rate) -> int:
        """As `_training_memory`."""
        return max(rate.memory, rate.left + self.starts["stage"].ending)

    def _unit_rows(self) -> int:
        """Rows of the largest unit."""
        return max(part.rows_per_video * part.units[0] for part in self.counts.parts)

    def _working(self, workers: int, rate: Rate) -> float:
        """Seconds of a stage that works through the units."""
        last = makespan(self.counts.parts, workers, lambda part, videos: videos * part.rows_per_video * rate.row)
        return self.starts["stage"].seconds + rate.first + last
