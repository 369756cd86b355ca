"""Signatures made by the services' own libraries, at one moment, of bodies that each of them could send."""

from __future__ import annotations

NOW = 1_763_600_000
"""When they were made, in seconds since the epoch."""

# stripe 16.1.0: WebhookSignature._compute_signature(f"{NOW}.{body}", secret); Webhook.construct_event takes the header.
STRIPE_SECRET, STRIPE_OTHER = "whsec_test_secret", "whsec_other_secret"
STRIPE = (
    b'{"id":"evt_1","object":"event","type":"invoice.paid",'
    b'"data":{"object":{"id":"in_1","total":1999,"name":"Ada \xc3\xa9"}}}'
)
STRIPE_SIGNATURE = "e1a3869b54a5afdfe20a2b0e36985a604f656edba2df7ead77dde526981ca142"
STRIPE_OTHERS = "ed422fbb2910e43d082b71bcca6f1044d7172b1f914f81398d842da6bd2b70e1"

# From GitHub's documentation, "Validating webhook deliveries".
GITHUB_SECRET = "It's a Secret to Everybody"
GITHUB = b"Hello, World!"
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"

# slack_sdk 3.47.0: SignatureVerifier(secret).generate_signature(timestamp=str(NOW), body=body).
SLACK_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SLACK = b'{"type":"event_callback","event_id":"Ev01","event":{"type":"app_mention","text":"hi \xc3\xa9"}}'
SLACK_SIGNATURE = "v0=237aac812065873063c4566206feeca5f52e8f0d121c8c4745b3793ae6c5279c"
CHALLENGE = (
    b'{"token":"x","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P","type":"url_verification"}'
)
CHALLENGE_SIGNATURE = "v0=e8d827d4ec99d2d88a7b16cc5038b51ed980971546cc37ce51c12105210ecd2c"
COMMAND = b"token=x&team_id=T1&command=%2Fweather&text=94070&trigger_id=13345224609.738474920.8088930838d88f008e0"
COMMAND_SIGNATURE = "v0=75cd12cf54af9dc089f78b600483bcaaccf369010f02d43494f6ac4a3286f38e"
BUTTON = b"payload=%7B%22type%22%3A%22block_actions%22%2C%22trigger_id%22%3A%2212.34%22%7D"
BUTTON_SIGNATURE = "v0=fc0feb1936a2d7342300e561c6870f9f296ea1c5e3d3fc90a75a5000ec7c7a7a"

# standardwebhooks 1.1.0: Webhook(secret).sign(STANDARD_ID, NOW, body).
STANDARD_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
STANDARD_SECRET, STANDARD_OTHER = (
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
)
STANDARD = b'{"type":"invoice.paid","timestamp":"2025-11-20T00:53:20Z","data":{"id":"in_1"}}'
STANDARD_SIGNATURE = "v1,zHTuKJVmKg+dmkcqJuAT+adnZc+CRXZVXXnLck5NcdY="
STANDARD_OTHERS = "v1,fGzbs2+x0OgCBTt9CNATwRLLwvfZzKNV0E8rT6sfmfs="

FORM = "application/x-www-form-urlencoded"

STRIPE_HEADERS = {"Stripe-Signature": f"t={NOW},v1={STRIPE_SIGNATURE}"}
SLACK_HEADERS = {"X-Slack-Request-Timestamp": str(NOW), "X-Slack-Signature": SLACK_SIGNATURE}
STANDARD_HEADERS = {
    "webhook-id": STANDARD_ID,
    "webhook-timestamp": str(NOW),
    "webhook-signature": STANDARD_SIGNATURE,
}
GITHUB_HEADERS = {"X-Hub-Signature-256": GITHUB_SIGNATURE, "X-GitHub-Event": "push", "X-GitHub-Delivery": "d-1"}


def present() -> float:
    """The moment at which the signatures were made."""
    return NOW
