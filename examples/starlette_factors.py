"""An ASGI application: one endpoint sends, another asks for the result, and neither blocks the event loop.

It is written with Starlette, and what it calls is the same in FastAPI, which is built on that. It needs
``pip install starlette uvicorn``. Run these in two terminals, in the same folder, so that both find the
same queue (or set LOCALQ_URL in both)::

    uvicorn --app-dir examples starlette_factors:app
    localq --path examples starlette_factors

Then::

    curl -d 1000036000099 http://localhost:8000/factors
    curl http://localhost:8000/factors/THE_ID_IN_THE_ANSWER
"""

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

import localq
from localq.results import ResultFailure, ResultMissing


@localq.actor(max_retries=0, time_limit=60_000)
def factorize(number):
    factors, divisor = [], 2
    while divisor * divisor <= number:
        while number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        divisor += 1
    return [*factors, number] if number > 1 else factors


async def order_factors(request):
    try:
        number = int(await request.body())
    except ValueError:
        return JSONResponse({"error": "the body is not a number"}, status_code=400)
    message = await factorize.asend(number)
    return JSONResponse({"factors": f"/factors/{message.message_id}"}, status_code=202)


async def show_factors(request):
    message = factorize.message().copy(message_id=str(request.path_params["id"]))
    try:
        factors = await message.aget_result(block=False)
    except ResultMissing:  # also when the id is unknown, and ten minutes after the result came
        return JSONResponse({"factors": None}, status_code=202)
    except ResultFailure as failure:
        return JSONResponse({"error": str(failure)}, status_code=500)
    return JSONResponse({"factors": factors})


app = Starlette(
    routes=[
        Route("/factors", order_factors, methods=["POST"]),
        Route("/factors/{id:uuid}", show_factors),
    ]
)
