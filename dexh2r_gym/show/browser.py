"""A replay or an episode of a run in the browser, by viser (extra `view`): play, scrub, choose, look."""

from __future__ import annotations

import ipaddress
import threading
import time
from typing import Any

from dexh2r_gym.extras import import_extra
from dexh2r_gym.replay import Replay
from dexh2r_gym.show.clouds import NONE, Clouds
from dexh2r_gym.show.contacts import ContactFinder
from dexh2r_gym.show.panel import Charts, describe, key
from dexh2r_gym.show.source import Source
from dexh2r_gym.show.stage import BLOCKED, FREE, NEAREST, TOUCH, Shown, Stage
from dexh2r_gym.show.timeline import Timeline

HOST, PORT = "127.0.0.1", 8080
_SPEEDS = ("0.1", "0.25", "0.5", "1", "2")
_RATE = 60.0  # steps of the clock a second
_HOLD = 1.0  # seconds for which the last frame stays


def serve(source: Source, id: str, *, host: str = HOST, port: int = PORT) -> None:
    """Show a timeline of the source in the browser until interrupted; prints the address.

    Args:
        source: what can be chosen in the page.
        id: what to start with.
        host: address to listen on; by default only this machine can connect.
        port: the next free one is taken where it is in use; 0 for any.

    Raises:
        MissingExtraError: viser is not installed.
        ValueError, OSError: there is no such id, or it cannot be read.
    """
    viewer = Viewer(source, id, host=host, port=port)
    print(f"{id}: {viewer.address} (Ctrl-C ends it)", flush=True)
    if not is_loopback(host):
        print(f"others can connect: whoever reaches this machine at {host} can look, and steer", flush=True)
    try:
        viewer.run()
    except KeyboardInterrupt:
        pass
    finally:
        viewer.close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a server on this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Viewer:
    """A web server that shows one timeline of a source; everyone who connects sees, and steers, the same."""

    def __init__(self, source: Source, id: str, *, host: str = HOST, port: int = PORT):
        """Start the server; see `serve`."""
        viser: Any = import_extra("viser", "view")
        timeline = source.open(id)  # what cannot be shown is an error before a server runs
        self.server: Any = viser.ViserServer(host, port, verbose=False)
        self.server.request_share_url = lambda verbose=True: None  # no page may open a tunnel to the internet
        self.server.initial_camera.position = (-0.05, -0.8, 1.2)  # the scene stands to the left of the panel
        self.server.initial_camera.look_at = (0.15, 0.0, 1.0)
        self._source = source
        self._lock = threading.RLock()
        self._frame = 0.0
        self.stage = Stage(self.server.scene)
        self._build_controls(id)
        self._open(timeline)

    @property
    def address(self) -> str:
        """Of the page."""
        return f"http://{self.server.get_host()}:{self.server.get_port()}"

    @property
    def replay(self) -> Replay:
        """The trial that is shown."""
        return self.timeline.replay

    def run(self) -> None:
        """Play until interrupted."""
        before = time.monotonic()
        while True:
            time.sleep(1 / _RATE)
            now = time.monotonic()
            self.tick(now - before)
            before = now

    def tick(self, seconds: float) -> None:
        """Let time pass: while it plays, the trial goes on, rests at its end, and starts again."""
        with self._lock:
            if self.playing.value:
                step, frames = seconds * self.replay.fps * float(self.speed.value), self.replay.num_frames
                self._frame = (self._frame + step) % (frames + _HOLD * self.replay.fps)
                self.frame.value = min(int(self._frame), frames - 1)

    def close(self) -> None:
        """Stop the server."""
        self.server.stop()

    def _build_controls(self, id: str) -> None:
        gui, groups, ids = self.server.gui, self._source.groups, self._source.ids
        gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
        group, label = next((group, label) for group in groups for label in groups[group] if ids[label] == id)
        self.text = gui.add_markdown("")
        self.frame = gui.add_slider("frame", 0, 1, 1, 0)
        self.playing = gui.add_checkbox("play", True)
        self.speed = gui.add_dropdown("speed", _SPEEDS, initial_value="1")
        self.charts = gui.add_html("")
        with gui.add_folder("choose"):
            gui.add_markdown(self._source.title)
            self.group = gui.add_dropdown(self._source.group_name, tuple(groups), initial_value=group)
            self.trial = gui.add_dropdown("id", groups[group], initial_value=label)
        with gui.add_folder("show"):
            self.show = {
                name: gui.add_checkbox(words, getattr(Shown(), name))
                for name, words in (
                    ("robot", "robot"),
                    ("giver", "giver"),
                    ("path", "path of the palm"),
                    ("see_through", "see-through"),
                    ("goals", "goal grasps"),
                    ("contacts", "contacts"),
                )
            }
            gui.add_html(key("goals", {"free": FREE, "giver in the way": BLOCKED, "nearest": NEAREST}))
            gui.add_html(key("contacts", TOUCH))
            self.goal = gui.add_slider("hand at goal", 0, 1, 1, 0, hint="0: none")
            self.cloud = gui.add_dropdown("cloud", (NONE,), initial_value=NONE)
        self.group.on_update(lambda _: setattr(self.trial, "options", groups[self.group.value]))
        self.trial.on_update(lambda _: self._choose())
        for control in (self.frame, self.goal, self.cloud, *self.show.values()):
            control.on_update(lambda _: self._draw())

    def _choose(self) -> None:
        """Show what the menu says; what cannot be read is told in the page, and the last one stays."""
        try:
            timeline = self._source.open(self._source.ids[self.trial.value])
        except (ValueError, OSError) as error:
            self.text.content = f"**{self.trial.value}** cannot be shown\n\n```\n{error}\n```"
        else:
            self._open(timeline)

    def _open(self, timeline: Timeline) -> None:
        """Show another timeline from its first frame on."""
        with self._lock, self.server.atomic():
            self.timeline = timeline
            self._nearest, self._d = timeline.nearest()
            self._contacts, self._clouds = ContactFinder(timeline), Clouds(timeline)
            self._charts = Charts(timeline, self._d)
            self.stage.open(timeline)
            replay, kind = timeline.replay, self.cloud.value
            self.show["giver"].visible = replay.has_giver
            self.cloud.options = self._clouds.kinds
            self.cloud.value = kind if kind in self._clouds.kinds else NONE
            self.goal.max = len(replay.goal_pose)
            self.goal.value = min(self.goal.value, self.goal.max)
            self.frame.max = max(1, replay.num_frames - 1)
            self._frame, self.frame.value = 0.0, 0
            self._draw()

    def _draw(self) -> None:
        """Bring the page to the frame of the slider."""
        with self._lock, self.server.atomic():
            replay = self.replay
            last = replay.num_frames - 1
            t = min(int(self.frame.value), last)
            if t != min(int(self._frame), last):  # moved by hand
                self._frame = float(t)
            contacts = self._contacts.at(t)
            shown = Shown(**{name: box.value for name, box in self.show.items()}, goal=int(self.goal.value))
            cloud = self._clouds.at(self.cloud.value, t)
            self.stage.draw(
                t, shown, nearest=self._nearest[t], contacts=contacts, cloud=cloud, has_giver=replay.has_giver
            )
            self.text.content = describe(self.timeline, t, self._d[t], contacts)
            self.charts.content = self._charts.svg(t)
