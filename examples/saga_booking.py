"""A trip that is booked whole or not at all: `python examples/saga_booking.py`.

Each booking says how it is undone. Where a later one fails, what was booked before is undone, last first, whatever
becomes of the worker meanwhile. The run ends `compensated`, and whoever waits for it gets the error that began it.
"""

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass

from perdure import NonRetryableError, Perdure, RunFailedError, flow

app = Perdure("sqlite:///trips.db")


@dataclass
class Trip:
    who: str
    city: str


async def cancel(trip: Trip, result: str) -> None:
    print(f"  {trip.who}: {result} is cancelled")


@app.step(undo=cancel)
async def book_flight(trip: Trip) -> str:
    print(f"  {trip.who}: flight to {trip.city}")
    return "the flight"


@app.step(undo=cancel)
async def book_hotel(trip: Trip) -> str:
    print(f"  {trip.who}: hotel in {trip.city}")
    return "the hotel"


@app.step(undo=cancel)
async def book_car(trip: Trip) -> str:
    if trip.city == "Venice":
        raise NonRetryableError("there are no cars in Venice")
    print(f"  {trip.who}: car in {trip.city}")
    return "the car"


@app.workflow
async def book(trip: Trip) -> str:
    await book_flight(trip)
    await book_hotel(trip)
    await book_car(trip)
    return f"{trip.who} goes to {trip.city}, booked as {flow.run_id()}"


async def main() -> None:
    async with app:
        for number, trip in enumerate([Trip("ada", "Bern"), Trip("bob", "Venice")], 1):
            run = await app.start(book, trip, id=f"trip-{number}")
            try:
                print(await run.result(timeout="1 minute"))
            except RunFailedError as error:
                print(f"{trip.who} stays at home: {error.__cause__}")
            print(f"{run.id} is {(await run.get()).status.value}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        asyncio.run(main())
