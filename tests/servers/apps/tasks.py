"""The same jobs as tasks of Celery."""

import os

from celery import Celery

from tests.servers.apps.producing import produce

tasks = Celery("tests.servers.apps.tasks", broker=os.environ.get("QUEUE"))
# There is nobody to ask for results.
tasks.conf.task_ignore_result = True
tasks.task(name="produce")(produce)
