"""An authorisation server for tests, on loopback, as strict as the strictest vendor.

Codes are bound to their client, redirect address and PKCE challenge, and good once. Refresh tokens are
good once: a second use revokes the whole family, access tokens included. There is a device endpoint, an
OpenID configuration, and `/admin`, through which a test sets what goes wrong and reads what was seen.

Sources: RFC 6749 (OAuth 2.0), 7636 (PKCE), 8628 (device), 9700 4.14.2 (rotation, family revocation).
Only the standard library. Prints its port, and ends when its standard input does.
"""

import base64
import hashlib
import json
import os
import secrets
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlencode, urlsplit

CLIENT = "test-client"
lock = threading.Lock()
codes = {}
devices = {}
refresh_tokens = {}
families = {}
seen = {"last_commit_ms": 0, "exchanges": 0, "replays": 0, "logins": 0, "refused": [], "agents": [], "formats": []}
settings = {
    "expires_in": 3600,
    "rotate": True,
    "delay": 0,
    # One of: none, hang_after, error_after, html_after, error_before, throttle, revoke, same_access
    "fault": "none",
    # How many exchanges the fault still strikes; -1 for all.
    "fault_count": -1,
    "device_approved": True,
}


first_access = {}


def mint(family, generation):
    refresh = f"rt-{family}-{generation}-{secrets.token_hex(8)}"
    refresh_tokens[refresh] = (family, generation)
    families[family]["generation"] = generation
    claims = base64.urlsafe_b64encode(
        json.dumps({"sub": family, "email": f"{family}@Example.com"}).encode()
    ).rstrip(b"=")
    answer = {
        "access_token": f"at-{family}-{generation}-{secrets.token_hex(8)}",
        "token_type": "Bearer",
        "id_token": f"h.{claims.decode()}.s",
    }
    if settings["expires_in"] is not None:
        answer["expires_in"] = settings["expires_in"]
    if settings["rotate"] or generation == 1:
        answer["refresh_token"] = refresh
    first_access.setdefault(family, answer["access_token"])
    return answer


def family_of(answer):
    return answer["access_token"].split("-")[1]


def new_family(name=None):
    seen["logins"] += 1
    name = name or f"user{seen['logins']}"
    families[name] = {"generation": 1, "revoked": False, "used": set()}
    return name


class Refused(Exception):
    pass


def exchange(fields):
    kind = fields.get("grant_type")
    if fields.get("client_id") != CLIENT:
        raise Refused("invalid_client")
    if kind == "authorization_code":
        code = codes.pop(fields.get("code"), None)
        if code is None:
            raise Refused("invalid_grant")
        verifier = fields.get("code_verifier", "").encode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest()).rstrip(b"=").decode()
        if len(verifier) < 43 or challenge != code["challenge"]:
            raise Refused("invalid_grant")
        if fields.get("redirect_uri") != code["redirect"]:
            raise Refused("invalid_grant")
        return mint(new_family(), 1)
    if kind == "urn:ietf:params:oauth:grant-type:device_code":
        device = devices.get(fields.get("device_code"))
        if device is None:
            raise Refused("expired_token")
        device["polls"] += 1
        if not settings["device_approved"] or device["polls"] < 2:
            raise Refused("authorization_pending")
        del devices[fields["device_code"]]
        return mint(new_family(), 1)
    if kind == "refresh_token":
        token = fields.get("refresh_token")
        if token not in refresh_tokens:
            raise Refused("invalid_grant")
        name, generation = refresh_tokens[token]
        family = families[name]
        if family["revoked"]:
            raise Refused("invalid_grant")
        if settings["rotate"] and token in family["used"]:
            family["revoked"] = True
            seen["replays"] += 1
            raise Refused("refresh_token_reused")
        family["used"].add(token)
        seen["exchanges"] += 1
        seen["last_commit_ms"] = int(time.time() * 1000)
        return mint(name, family["generation"] + 1)
    raise Refused("unsupported_grant_type")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body, kind="application/json", headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def fields(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        is_json = "json" in self.headers.get("content-type", "")
        seen["formats"].append("json" if is_json else "form")
        return json.loads(body) if is_json else dict(parse_qsl(body))

    def do_GET(self):
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        base = f"http://127.0.0.1:{self.server.server_port}"
        if url.path == "/.well-known/openid-configuration":
            return self.reply(
                200,
                {"authorization_endpoint": f"{base}/authorize", "token_endpoint": f"{base}/token"},
            )
        if url.path == "/authorize":
            good = (
                query.get("response_type") == "code"
                and query.get("client_id") == CLIENT
                and query.get("code_challenge_method") == "S256"
                and query.get("state")
                and query.get("scope")
            )
            if not good:
                return self.reply(400, {"error": "invalid_request", "query": query})
            code = f"code{secrets.token_hex(8)}"
            with lock:
                codes[code] = {"challenge": query["code_challenge"], "redirect": query["redirect_uri"]}
            back = urlencode({"code": code, "state": query["state"]})
            return self.reply(302, b"", headers=[("location", f"{query['redirect_uri']}?{back}")])
        if url.path == "/admin":
            with lock:
                state = {
                    name: {"generation": family["generation"], "revoked": family["revoked"]}
                    for name, family in families.items()
                }
                return self.reply(200, {**seen, "families": state})
        return self.reply(404, {"error": "not_found"})

    def do_POST(self):
        path = urlsplit(self.path).path
        fields = self.fields()
        if path == "/admin":
            with lock:
                settings.update(fields.get("set", {}))
                answer = {}
                if "mint" in fields:
                    answer = mint(new_family(fields["mint"]), 1)
            return self.reply(200, answer)
        seen["agents"].append(self.headers.get("user-agent"))
        if path == "/device":
            code = secrets.token_hex(8)
            with lock:
                devices[code] = {"polls": 0}
            base = f"http://127.0.0.1:{self.server.server_port}"
            return self.reply(
                200,
                {
                    "device_code": code,
                    "user_code": "ABCD-EFGH",
                    "verification_uri": f"{base}/confirm",
                    "verification_uri_complete": f"{base}/confirm?code=ABCD-EFGH",
                    "expires_in": 60,
                    "interval": 1,
                },
            )
        if path != "/token":
            return self.reply(404, {"error": "not_found"})
        time.sleep(settings["delay"])
        with lock:
            fault = "none"
            if fields.get("grant_type") == "refresh_token" and settings["fault_count"] != 0:
                fault = settings["fault"]
                settings["fault_count"] -= 1
            if fault == "revoke":
                for family in families.values():
                    family["revoked"] = True
            if fault == "error_before":
                return self.reply(503, {"error": "temporarily_unavailable"})
            if fault == "throttle":
                return self.reply(429, {"error": "slow_down"}, headers=[("retry-after", "1")])
            try:
                answer = exchange(fields)
            except Refused as refused:
                seen["refused"].append(str(refused))
                return self.reply(400, {"error": str(refused), "error_description": json.dumps(fields)})
        if fault == "same_access":
            # A server that sees no need for another access token yet.
            answer["access_token"] = first_access[family_of(answer)]
        if fault == "hang_after":
            time.sleep(30)
            self.close_connection = True
            return None
        if fault == "error_after":
            return self.reply(500, {"error": "server_error"})
        if fault == "html_after":
            return self.reply(200, b"<html>Welcome</html>", kind="text/html")
        return self.reply(200, answer)


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True

    def handle_error(self, *_):
        # Whoever asks is killed in the middle, on purpose.
        pass


server = Server(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
os._exit(0)
