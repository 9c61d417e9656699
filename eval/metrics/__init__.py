"""What a closed loop was worth: pure functions of one Rollout, each with its validity and its evidence step by step.

A planner that raised, answered with NaN or did not reach the end gets the worst value, valid, and is never dropped.
Each takes a Rollout, or a Scene made from one (which is shared among the metrics of a protocol, computes what they have
in common once, and carries References where a definition needs more than the drive itself). Thresholds are keyword
arguments with the published values as defaults; a protocol's hash covers them. In every score 1 is best, except l2 and
l2_to_log in metres, the collision rates, and ncap up to 5.
"""

from drive_wm.eval.metrics.base import STEP_S, failed
from drive_wm.eval.metrics.collision import (
    AHEAD_RAD,
    BEHIND_RAD,
    STOPPED_MPS,
    contacts,
    counted_collisions,
    first_contacts,
    impact,
    ncap,
    no_at_fault_collision,
    no_front_or_lateral_collision,
)
from drive_wm.eval.metrics.combined import (
    NCAP_TYPES,
    Stage,
    drive_quality,
    ncap_gate,
    ncap_mean,
    pdm_scores,
    pseudo_weights,
    route_completion,
    two_stage,
)
from drive_wm.eval.metrics.comfort import (
    BOUNDS,
    COMFORT_BOUNDS,
    comfort,
    extended_comfort,
    history_comfort,
    motion,
    savitzky_golay,
)
from drive_wm.eval.metrics.geometry import (
    Polygons,
    boxes_overlap,
    follow_polyline,
    inside_any,
    overlaps,
)
from drive_wm.eval.metrics.open_loop import FAILED_L2_M, collision_rate, l2, l2_to_log
from drive_wm.eval.metrics.progress import (
    LEFT_PATH_M,
    SHORT_LOG_M,
    ego_progress,
    expert_progress,
    is_making_progress,
    made_progress,
    progress,
    relative_progress,
    saturated_progress,
    stayed_on_path,
)
from drive_wm.eval.metrics.road import (
    against_traffic,
    driving_direction,
    lane_keeping,
    on_road,
    speed_limit,
    traffic_lights,
)
from drive_wm.eval.metrics.road_map import Road
from drive_wm.eval.metrics.scene import (
    History,
    References,
    Scene,
)
from drive_wm.eval.metrics.ttc import least_time_to_collision, time_to_collision, times_to_collision

__all__ = [
    "AHEAD_RAD", "BEHIND_RAD", "BOUNDS", "COMFORT_BOUNDS", "FAILED_L2_M", "History", "LEFT_PATH_M", "NCAP_TYPES",
    "Polygons", "References", "Road", "SHORT_LOG_M", "STEP_S", "STOPPED_MPS", "Scene", "Stage", "against_traffic",
    "boxes_overlap", "collision_rate", "comfort", "contacts", "counted_collisions",
    "drive_quality", "driving_direction", "ego_progress", "expert_progress", "extended_comfort",
    "failed", "first_contacts", "follow_polyline", "history_comfort", "impact", "inside_any", "is_making_progress",
    "l2", "l2_to_log", "lane_keeping", "least_time_to_collision", "made_progress", "motion", "ncap", "ncap_gate",
    "ncap_mean", "no_at_fault_collision", "no_front_or_lateral_collision", "on_road", "overlaps", "pdm_scores",
    "progress", "pseudo_weights", "relative_progress", "route_completion", "saturated_progress", "savitzky_golay",
    "speed_limit", "stayed_on_path", "time_to_collision", "times_to_collision", "traffic_lights", "two_stage"]
