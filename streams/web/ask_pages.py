"""The pages that ask: the form of a simulation, the plan of a pilot, and what follows from an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from engine.experiments import Assignment
from schemas import Channel, ExperimentPlan, Frequency
from sql.database import Pool
from sql.ledger import Ledger
from sql.ledger_rows import lines_with_champion
from sql.threshold_store import line_thresholds
from streams.settings import Settings
from streams.web.ask_form import AskForm, AskOffer
from streams.web.assets import FORM_SCRIPTS, asset
from streams.web.page_reader import PageReader, Reading
from streams.web.pages import PageAnswer
from streams.web.pilot_charts import pilot_charts
from streams.web.rendering import PageState, render_page
from streams.web.typed_fields import TypedFields

__all__ = ["AskPages", "Offered", "PilotForm"]

ASK, SIMULATIONS = "/ask", "/simulations"


class Offered(NamedTuple):
    """What is on offer; None while no line has a champion."""

    offer: AskOffer | None


class PilotForm(TypedFields):
    """What was typed into the form of a pilot; what cannot be read has its default.

    Attributes:
        effect, power: to detect, and with which probability; fractions.
        available: people there are; None for any number.
        assignment: of people to arms.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], effect: float) -> None:
        super().__init__(pairs)
        self.effect = self.percent("effect", 0.01, 99.99) or effect
        self.power = self.percent("power", 50, 99.9) or 0.8
        self.available = self.whole("available", 4, 1_000_000_000)
        control = self.number("control", lambda value: 0.001 <= value <= 1000, "a number from 0.001 to 1000")
        cluster = self.number("cluster", lambda value: 1 <= value <= 1_000_000, "a number from 1 to 1,000,000")
        self.assignment = Assignment(control or 1.0, cluster or 1.0, self.percent("icc", 0, 100) or 0.0)


class AskPages:
    """Answers requests for the pages that ask.

    Args:
        reader: reads what is stored.
        settings: where the roles serve their metrics.
        state: what a page shows beside the figures, which could not be read anew for this reason.
    """

    def __init__(self, reader: PageReader, settings: Settings, state: Callable[[str], PageState]) -> None:
        self._reader, self._settings, self._state = reader, settings, state

    async def offered(self, line: str) -> Reading[Offered]:
        """What can be asked of a line; of the first one where there is none with this name."""
        return await self._reader.read(("ask", line), lambda pool: _read_offer(pool, line))

    def form(
        self, reading: Reading[Offered], form: AskForm | None, people: str = "", status: HTTPStatus = HTTPStatus.OK
    ) -> PageAnswer:
        """The form, with what was typed and what is wrong with it."""
        offer = reading.value.offer if reading.value else None
        html = self._render(
            "ask.html",
            ASK,
            reading.problem,
            offer=offer,
            form=form,
            people=people,
            is_read=reading.value is not None,
            key=form.text("key", uuid4().hex) if form else "",
            channels=[channel.value for channel in Channel],
            frequencies=[frequency.value for frequency in Frequency],
            form_scripts=[asset(name) for name in FORM_SCRIPTS],
        )
        return PageAnswer(status, html)

    def pilot(
        self, run: Any, form: PilotForm, plan: ExperimentPlan | None, by_size: Sequence[tuple[int, ExperimentPlan]]
    ) -> PageAnswer:
        """The plan of a pilot of a simulation; without one, what is wrong with what was typed."""
        html = self._render(
            "pilot.html",
            SIMULATIONS,
            "",
            run=run,
            form=form,
            plan=plan,
            charts=pilot_charts(plan, by_size, form.power) if plan else {},
        )
        return PageAnswer(HTTPStatus.OK if plan else HTTPStatus.UNPROCESSABLE_ENTITY, html)

    def repeated(self, simulation_id: UUID, differences: dict[str, Any] | None, problem: str = "") -> PageAnswer:
        """Whether a simulation that was computed again has the same result; None before it was."""
        html = self._render("repeat.html", SIMULATIONS, "", simulation_id=simulation_id, differences=differences, problem=problem)
        return PageAnswer(HTTPStatus.UNPROCESSABLE_ENTITY if problem else HTTPStatus.OK, html)

    def problem(self, status: HTTPStatus, heading: str, sentence: str, section: str = SIMULATIONS) -> PageAnswer:
        """A page that tells why there is nothing to show."""
        return PageAnswer(status, self._render("problem.html", section, "", heading=heading, sentence=sentence))

    def _render(self, template: str, section: str, unread: str, **content: Any) -> str:
        return render_page(template, self._settings, section, self._state(unread), **content)


async def _read_offer(pool: Pool, line: str) -> Offered:
    lines = await lines_with_champion(pool)
    if not lines:
        return Offered(None)
    name = line if line in lines else lines[0]
    ledger = Ledger(pool)
    champion = await ledger.champion(name)
    if champion is None:  # retired since the names were read
        return Offered(None)
    return Offered(AskOffer(tuple(lines), name, await ledger.card(champion), await line_thresholds(pool, name)))
