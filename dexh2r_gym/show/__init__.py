"""Looking at a recorded trial: in the browser (`serve`), as a video or as a sheet of pictures (`film`)."""

from dexh2r_gym.show.browser import ReplayViewer, serve
from dexh2r_gym.show.film import film

__all__ = ["ReplayViewer", "film", "serve"]
