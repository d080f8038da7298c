"""A Flask application from a factory, and an actor that runs in the context of that application.

It needs ``pip install flask``. Run these in two terminals, in the same folder, so that both find the
same queue (or set LOCALQ_URL in both)::

    flask --app examples/flask_letters run
    localq flask_letters:create_app --path examples

Every worker process calls `create_app`, as the web server does. Then::

    curl -d name=Ada http://localhost:5000/letters
    curl http://localhost:5000/letters/THE_ID_IN_THE_ANSWER
"""

from flask import Blueprint, Flask, current_app, render_template_string, request, url_for

import localq
from localq.results import ResultFailure, ResultMissing


class AppContext(localq.Middleware):
    """Pushes the application's context around each message, as Flask does around each request."""

    app = None

    def init_app(self, app):
        self.app = app

    def before_process_message(self, broker, message):
        message.app_context = self.app.app_context()
        message.app_context.push()

    def after_process_message(self, broker, message, *, result=None, exception=None):
        context = getattr(message, "app_context", None)
        if context is not None:  # else the message ended before it came to us
            context.pop(exception)

    after_skip_message = after_process_message


app_context = AppContext()
localq.get_broker().add_middleware(app_context)


@localq.actor
def write_letter(name):
    letter = "Dear {{ name }}, welcome to {{ site }}."
    return render_template_string(letter, name=name, site=current_app.config["SITE"])


pages = Blueprint("pages", __name__)


@pages.post("/letters")
def order_letter():
    message = write_letter.send(request.form["name"])
    return {"letter": url_for("pages.show_letter", message_id=message.message_id)}, 202


@pages.get("/letters/<uuid:message_id>")
def show_letter(message_id):
    message = write_letter.message().copy(message_id=str(message_id))
    try:
        return {"text": message.get_result()}
    except ResultMissing:  # also when the id is unknown, and ten minutes after it was written
        return {"text": None}, 202
    except ResultFailure as failure:
        return {"error": str(failure)}, 500


def create_app(**config):
    app = Flask(__name__)
    app.config.from_mapping(SITE="the example", **config)
    app.register_blueprint(pages)
    app_context.init_app(app)
    return app
