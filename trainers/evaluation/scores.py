"""Scores of all samples and methods of an evaluation task."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ...metrics import fid
from .tables import Summary
from .tasks import GROUND_TRUTH


@dataclass
class TaskScores:
    """Scores per photo and Inception statistics of each method."""

    indices: list[int] = field(default_factory=list)
    """Numbers of the photos."""
    keys: list[str] = field(default_factory=list)
    """Keys of the photos."""
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """Method -> score -> value for each photo; NaN = undefined."""
    features: dict[str, fid.FeatureStatistics] = field(default_factory=dict)
    """Method -> statistics of Inception's features."""

    def add(self, method: str, scores: Mapping[str, Tensor]) -> None:
        """Append scores (B,) of the next photos."""
        columns = self.scores.setdefault(method, {})
        for name, values in scores.items():
            columns.setdefault(name, []).extend(values.tolist())

    def add_features(self, method: str, features: Tensor) -> None:
        """Add Inception's features (B, D) of the next photos."""
        if method not in self.features:
            self.features[method] = fid.FeatureStatistics(features.shape[1])
        self.features[method].add(features)

    def summary(self) -> Summary:
        """Return the mean scores of each method; FID and delta-CF compare whole sets."""
        summary: Summary = {}
        true = {name: np.array(values) for name, values in self.scores[GROUND_TRUTH].items()}
        for method, scores in self.scores.items():
            row: dict[str, float | int | None] = {"photos": len(self.keys)}
            for name, values in scores.items():
                defined = np.array(values)[~np.isnan(values)]
                if name in ("top1", "top5"):
                    row["photos_with_class"] = len(defined)
                    defined = 100 * defined
                row[name] = float(defined.mean()) if len(defined) else None
            for form in ("", "paper_"):
                difference = np.array(scores[f"{form}colorfulness"]) - true[f"{form}colorfulness"]
                row[f"{form}delta_colorfulness"] = abs(float(difference.mean()))
                row[f"photo_{form}delta_colorfulness"] = float(np.abs(difference).mean())
            if method in self.features and len(self.keys) > 1:
                row["fid"] = fid.frechet_distance(
                    self.features[GROUND_TRUTH], self.features[method]
                )
            summary[method] = row
        return summary

    def rows(self, role: str) -> list[dict[str, str | float]]:
        """Return a row for each photo and method, without undefined scores."""
        return [
            {"role": role, "photo": key, "method": method}
            | {
                name: round(values[i], 5)
                for name, values in scores.items()
                if not math.isnan(values[i])
            }
            for i, key in enumerate(self.keys)
            for method, scores in self.scores.items()
        ]
