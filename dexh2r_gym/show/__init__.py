"""Looking at a trial or at an episode of a run: in the browser (`serve`), as a video or pictures (`film`)."""

from dexh2r_gym.show.browser import Viewer, serve
from dexh2r_gym.show.film import film
from dexh2r_gym.show.source import ReplaySource, RunSource, find_source
from dexh2r_gym.show.timeline import Timeline

__all__ = ["ReplaySource", "RunSource", "Timeline", "Viewer", "film", "find_source", "serve"]
