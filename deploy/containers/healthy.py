"""Health check of a container: exit code 0 if the URL, by default HEALTH_URL's, answers with 200 within 4 s."""

import os
import sys
from urllib.request import ProxyHandler, build_opener

url = sys.argv[1] if len(sys.argv) > 1 else os.environ["HEALTH_URL"]
try:
    with build_opener(ProxyHandler({})).open(url, timeout=4) as answer:
        sys.exit(0 if answer.status == 200 else f"{url} answers {answer.status}")
except OSError as error:
    sys.exit(f"{url}: {error}")
