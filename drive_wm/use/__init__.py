"""What the commands do, callable from Python too: each reads a source, asks the model and fills a run folder."""

from drive_wm.use.answers import explain, front_camera, plan, plan_with
from drive_wm.use.facts import info, tokens
from drive_wm.use.future import MODES, Future, generate, horizon_table, imagine
from drive_wm.use.pictures import mean_psnr, psnr_db
from drive_wm.use.tour import demo

__all__ = ["MODES", "Future", "demo", "explain", "front_camera", "generate", "horizon_table", "imagine", "info",
           "mean_psnr", "plan", "plan_with", "psnr_db", "tokens"]
