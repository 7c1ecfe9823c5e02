"""The pages: what each reads, and which template shows it. How they are served is the matter of their caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from schemas.base import shorten
from sql.database import Pool
from sql.dead_letter_store import UnknownRefusal, find_refused, replay_history
from sql.ledger import Ledger
from sql.model_card_rows import UnknownModel, load_card
from sql.overview_store import OverviewCounts, SimulationRun, find_retrain_summary, overview_counts
from sql.page_store import (
    COUNTED,
    ListQuery,
    change_mark,
    find_simulation_run,
    list_models,
    list_refused_records,
    list_retrains,
    list_simulation_runs,
    model_events,
)
from sql.retrain_store import UnknownRequest
from streams.reporting import formatting
from streams.reporting.decision import decision_changes, distribution_chart
from streams.reporting.line_list import LineList, LineSummary, read_line_list
from streams.reporting.overview import read_line
from streams.reporting.retrain_report import load_retrain_report
from streams.settings import Settings
from streams.web.dashboard_charts import line_charts, simulation_charts, simulations_chart
from streams.web.page_lists import (
    HISTORY,
    MAX_CHOSEN,
    PAGE_SIZE,
    BadParameter,
    ListChoice,
    Parameters,
    line_choice,
    list_choice,
)
from streams.web.page_reader import PageReader
from streams.web.rendering import PageState, render_page

__all__ = ["KINDS", "PARAMETERS", "PageAnswer", "Pages", "simulation_content"]

PARAMETERS = ("q", "state", "hours", "page", "segment")
"""The parameters that the addresses of pages take."""

_LINE_STATES = ("alarm", "warning", "suppressed", "ok", "insufficient", "silent")
_CHARTED = 12


class PageAnswer(NamedTuple):
    """The answer to a request for a page: its HTTP status and its HTML document."""

    status: int
    html: str


class _Listed(NamedTuple):
    """A page of a list at a time; ``n`` rows match."""

    at: datetime
    rows: Sequence[Any]
    n: int
    counts: OverviewCounts | None


@dataclass(frozen=True)
class _List:
    """A list: its states, how its rows are read, and what its template shows beside them."""

    states: tuple[str, ...]
    read: Callable[[Pool, ListQuery], Awaitable[tuple[Sequence[Any], int]]]
    charts: Callable[[Sequence[Any]], Mapping[str, Any]] = lambda _: {}


_LISTS: Mapping[str, _List] = MappingProxyType(
    {
        "simulations": _List(
            ("open", "deploy", "test_further", "do_not_deploy", "rejected", "failed", "cancelled"),
            list_simulation_runs,
            lambda rows: {"chart": simulations_chart(rows[:_CHARTED])},
        ),
        "retrains": _List(("queued", "running", "suggested", "promoted", "rejected", "failed", "stale", "refused"), list_retrains),
        "models": _List(("champion", "trained", "promoted", "suggested", "rejected", "rolled_back", "failed"), list_models),
        "refused": _List(("waiting", "replayed"), list_refused_records),
    }
)


KINDS = tuple(_LISTS)
"""What has a list and a page for each of its items."""


class Pages:
    """Answers requests for pages, from what is stored.

    Args:
        reader: reads it, and keeps what it read last.
        settings: number of outcomes that a window needs, limits of retrains, where the roles serve their metrics.
        state: what a page shows beside the figures, which could not be read anew for this reason.
    """

    def __init__(self, reader: PageReader, settings: Settings, state: Callable[[str], PageState]) -> None:
        self._reader, self._settings, self._state = reader, settings, state

    async def change_mark(self) -> str:
        """A text that is another one after anything that the pages show has changed."""
        reading = await self._reader.read("change mark", change_mark)
        state = self._state("")
        outages = [outage.part for outage in state.outages]
        return f"{reading.value} {bool(reading.problem)} {outages} {dict(state.starting)} {list(state.servers)}"

    async def lines(self, parameters: Parameters) -> PageAnswer:
        """The first page: all lines, the most urgent first."""
        try:
            choice = list_choice(parameters, _LINE_STATES, ranged=False)
        except BadParameter as error:
            return self._problem("/", HTTPStatus.BAD_REQUEST, "This list cannot be shown", str(error))
        reading = await self._reader.read("lines", lambda pool: read_line_list(pool, self._settings.n_min))
        return PageAnswer(HTTPStatus.OK, self.render_lines(reading.value, choice, self._state(reading.problem)))

    def render_lines(self, line_list: LineList | None, choice: ListChoice, state: PageState) -> str:
        """The first page with these lines."""
        matching = [line for line in line_list.lines if _matches(line, choice)] if line_list else []
        return self._render(
            "lines.html",
            "/",
            state,
            at=line_list and line_list.at,
            counts=line_list and line_list.counts,
            lines=matching[choice.skipped : choice.skipped + PAGE_SIZE],
            n=len(matching),
            counted=COUNTED,
            list=choice,
            states=_LINE_STATES,
        )

    async def line(self, name: str, parameters: Parameters) -> PageAnswer:
        """A line with its fidelity, its retrains and its history."""
        try:
            choice = line_choice(parameters)
        except BadParameter as error:
            return self._problem("/", HTTPStatus.BAD_REQUEST, "This line cannot be shown so", str(error))
        reading = await self._reader.read(("line", name, choice), lambda pool: read_line(pool, name, self._settings.n_min, choice))
        if reading.value is None:
            return self._unreadable("/", reading.problem)
        at, line = reading.value
        if line is None:
            return self._problem("/", HTTPStatus.NOT_FOUND, "No such line", f"There is no line {shorten(name)}.")
        html = self._render(
            "line.html",
            "/",
            self._state(reading.problem),
            at=at,
            line=line,
            charts=line_charts(line, at),
            choice=choice,
            history=HISTORY,
            max_chosen=MAX_CHOSEN,
        )
        return PageAnswer(HTTPStatus.OK, html)

    async def listed(self, kind: str, parameters: Parameters) -> PageAnswer:
        """A list of ``simulations``, ``retrains``, ``models`` or ``refused`` records."""
        section, shown = f"/{kind}", _LISTS[kind]
        try:
            choice = list_choice(parameters, shown.states, ranged=True)
        except BadParameter as error:
            return self._problem(section, HTTPStatus.BAD_REQUEST, "This list cannot be shown", str(error))

        async def load(pool: Pool) -> _Listed:
            at = datetime.now(UTC)
            rows, n = await shown.read(pool, choice.query(at))
            return _Listed(at, rows, n, await overview_counts(pool) if kind == "refused" else None)

        reading = await self._reader.read((kind, choice), load)
        listed = reading.value or _Listed(datetime.now(UTC), (), 0, None)
        html = self._render(
            f"{kind}.html",
            section,
            self._state(reading.problem),
            **listed._asdict() | ({"at": None} if reading.value is None else {}),
            **shown.charts(listed.rows),
            list=choice,
            counted=COUNTED,
            states=shown.states,
        )
        return PageAnswer(HTTPStatus.OK, html)

    async def single(self, kind: str, text: str) -> PageAnswer:
        """One of what :meth:`listed` lists, by its id."""
        section = f"/{kind}"
        try:
            item_id = UUID(text)
        except ValueError:
            sentence = f"{shorten(text)} is no id: it has 32 hexadecimal digits, with or without hyphens."
            return self._problem(section, HTTPStatus.NOT_FOUND, "No such id", sentence)
        template, read = {
            "simulations": ("simulation.html", self._simulation),
            "retrains": ("retrain.html", self._retrain),
            "models": ("model.html", self._model),
            "refused": ("refused_record.html", self._refused),
        }[kind]
        reading = await self._reader.read((kind, item_id), lambda pool: read(pool, item_id))
        if reading.value is None:
            return self._unreadable(section, reading.problem)
        if not reading.value:
            return self._problem(section, HTTPStatus.NOT_FOUND, "No such id", f"There is nothing with the id {item_id} here.")
        return PageAnswer(HTTPStatus.OK, self._render(template, section, self._state(reading.problem), **reading.value))

    def published(self, simulation_id: UUID) -> PageAnswer:
        """The page of a simulation that was published, and that no worker has read yet."""
        sentence = f"Simulation {simulation_id} waits for a worker. Its answer is shown here as soon as it is there."
        html = self._render("problem.html", "/simulations", self._state(""), heading="Published", sentence=sentence)
        return PageAnswer(HTTPStatus.OK, html)

    async def _simulation(self, pool: Pool, simulation_id: UUID) -> dict[str, Any]:
        run = await find_simulation_run(pool, simulation_id)
        return {} if run is None else simulation_content(run)

    async def _retrain(self, pool: Pool, retrain_id: UUID) -> dict[str, Any]:
        try:
            report = await load_retrain_report(pool, retrain_id, self._settings.retrain_limits)
        except UnknownRequest:
            return {}
        return {"at": datetime.now(UTC), "report": report, "retrain": await find_retrain_summary(pool, retrain_id)}

    async def _model(self, pool: Pool, model_id: UUID) -> dict[str, Any]:
        try:
            card = await load_card(pool, model_id)
        except UnknownModel:
            return {}
        champion = await Ledger(pool).champion(card.line)
        events = await model_events(pool, model_id)
        return {"at": datetime.now(UTC), "card": card, "champion": champion, "is_champion": champion == model_id, "events": events}

    async def _refused(self, pool: Pool, refusal_id: UUID) -> dict[str, Any]:
        try:
            record = await find_refused(pool, str(refusal_id))
        except UnknownRefusal:
            return {}
        return {"at": datetime.now(UTC), "record": record, "replays": await replay_history(pool, [refusal_id])}

    def _render(self, template: str, section: str, state: PageState, **content: Any) -> str:
        return render_page(template, self._settings, section, state, **content)

    def _unreadable(self, section: str, problem: str) -> PageAnswer:
        """The page without figures, which tells why there are none."""
        sentence = "It is shown as soon as the figures can be read."
        html = self._render("problem.html", section, self._state(problem), heading="Not read yet", sentence=sentence)
        return PageAnswer(HTTPStatus.OK, html)

    def _problem(self, section: str, status: HTTPStatus, heading: str, sentence: str) -> PageAnswer:
        html = self._render("problem.html", section, self._state(""), heading=heading, sentence=_capital(sentence))
        return PageAnswer(status, html)


def simulation_content(run: SimulationRun) -> dict[str, Any]:
    """What the page of a simulation shows, which its report shows too."""
    distribution = distribution_chart(run.results, run.results.get("effect_unit", ""))
    return {
        "at": datetime.now(UTC),
        "run": run,
        "charts": {**simulation_charts(run), "distribution": distribution},
        "changes": decision_changes(run.results, run.recommendation),
    }


def _matches(line: LineSummary, choice: ListChoice) -> bool:
    state = "silent" if line.window is None else line.window.state.value
    searched = f"{line.line} {formatting.line_title(line.line)} {formatting.plain_words(line.line)}".lower()
    return choice.q.lower() in searched and choice.state in ("", state)


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
