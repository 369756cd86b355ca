"""What a server has to withstand, and the test that shows each point of it.

A to D: who may do what, signed deliveries, input and outgoing calls, what leaks. They follow OWASP's API Security Top
10 and ASVS. A point without a test of its own says in `ELSEWHERE` what shows it, or that nothing does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
HERE = "server/security/"

SHOWN = {
    "A1 nothing is asked by nobody": (
        f"{HERE}test_access.py::test_nothing_is_public_but_a_list",
        f"{HERE}test_access.py::test_no_way_to_write_a_path_gets_in",
        f"{HERE}test_access.py::test_the_list_is_exact",
        f"{HERE}test_access.py::test_it_does_not_listen_to_others_without_keys",
        f"{HERE}test_csrf.py::test_there_are_no_web_sockets",
    ),
    "A2 credentials first, and the role, then the body": (
        f"{HERE}test_access.py::test_what_is_no_credential_is_refused",
        f"{HERE}test_access.py::test_two_credentials_are_none",
        f"{HERE}test_access.py::test_nothing_of_the_body_is_read_for_nobody",
        f"{HERE}test_access.py::test_nothing_of_the_body_is_read_for_whoever_may_not",
        f"{HERE}test_access.py::test_what_is_no_token_of_a_turn_is_refused_before_the_body",
    ),
    "A3 one tenant is nothing to another": (
        f"{HERE}test_tenants.py::test_ones_ids_are_nothing_in_the_others_hands",
        f"{HERE}test_tenants.py::test_no_page_shows_what_is_the_others",
        f"{HERE}test_tenants.py::test_no_client_reaches_what_is_the_others",
        f"{HERE}test_tenants.py::test_an_admin_of_one_makes_no_keys_for_the_other",
        f"{HERE}test_keys.py::test_who_is_admin_of_what_there_is_does_not_become_admin_of_what_will_be",
        "server/test_settings.py::test_two_namespaces_never_have_one_store",
    ),
    "A4 roles": (
        f"{HERE}test_access.py::test_each_role_may_do_what_it_may",
        f"{HERE}test_access.py::test_roles_are_what_they_ought_to_be",
        f"{HERE}test_access.py::test_a_key_for_metrics_reads_them_and_nothing_else",
        "server/test_remote_bounds.py::test_where_the_store_is_viewers_are_not_told",
    ),
    "A6 keys": (
        f"{HERE}test_keys.py::test_the_store_has_no_secret_and_a_repr_shows_none",
        f"{HERE}test_keys.py::test_rotation_leaves_both_for_a_while",
        f"{HERE}test_streams.py::test_a_stream_ends_soon_after_its_key",
        f"{HERE}test_streams.py::test_a_long_poll_tells_nothing_to_a_key_that_was_revoked_meanwhile",
    ),
    "A7 tokens": (
        f"{HERE}test_tokens.py::test_what_only_looks_alike_is_refused",
        f"{HERE}test_tokens.py::test_there_are_forty",
        f"{HERE}test_tokens.py::test_the_keys_are_asked_for_once_and_known_ones_outlast_an_outage",
        f"{HERE}test_tokens.py::test_keys_are_fetched_from_public_addresses_alone",
    ),
    "A8 sessions": (
        f"{HERE}test_sessions.py::test_the_cookie_has_all_its_flags",
        f"{HERE}test_sessions.py::test_each_login_is_a_new_session_and_ends_the_one_before",
        f"{HERE}test_sessions.py::test_a_session_ends_when_nobody_uses_it",
        f"{HERE}test_sessions.py::test_a_thousand_wrong_logins_are_throttled",
        f"{HERE}test_refusals.py::test_one_key_makes_so_many_sessions_an_hour",
    ),
    "A9 the audit log": (
        f"{HERE}test_access.py::test_who_may_not_leaves_one_record",
        f"{HERE}test_access.py::test_what_is_done_or_fails_is_there",
        f"{HERE}test_access.py::test_what_cannot_be_written_down_is_not_done",
        f"{HERE}test_audit.py::test_the_first_entry_that_does_not_hold_is_named",
        f"{HERE}test_refusals.py::test_a_viewer_who_asks_a_thousand_times_leaves_a_few_entries",
    ),
    "W1 signatures": (
        f"{HERE}test_webhooks.py::test_every_change_of_a_byte_is_noticed",
        "engine/test_webhook_receivers.py::test_what_was_tampered_with_is_refused",
        "engine/test_webhook_receivers.py::test_a_new_secret_loses_no_delivery",
    ),
    "W2 replay": (
        f"{HERE}test_webhooks.py::test_a_delivery_that_comes_again_within_the_window_starts_nothing_again",
        "engine/test_webhook_receivers.py::test_what_comes_again_within_the_tolerance_is_refused",
    ),
    "W3 callbacks by a token": (f"{HERE}test_access.py::test_what_is_no_token_of_a_turn_is_refused_before_the_body",),
    "W4 a bound before the signature": (
        "inbound/test_inbound.py::test_a_body_over_the_bound_is_not_read",
        "server/test_hooks.py::test_the_bounds_of_the_server_hold",
    ),
    "I1 bounds of a request": (
        "server/test_bodies.py::test_what_is_refused",
        "server/test_bodies.py::test_what_goes_in_comes_out",
        "server/test_bodies.py::test_a_body_that_does_not_say_is_read_no_further_than_the_bound",
        "server/test_listening.py::test_what_is_no_request",
        "server/test_listening.py::test_who_sends_nothing_or_too_slowly_is_let_go",
        "server/test_openapi.py::test_it_does_what_it_says",
        f"{HERE}test_input.py::test_control_characters_stand_in_no_name",
    ),
    "I2 no forms, no ranges": (
        f"{HERE}test_input.py::test_nothing_parses_forms_or_anything_but_json",
        f"{HERE}test_input.py::test_a_file_is_sent_whole_whatever_ranges_are_asked_for",
    ),
    "I3 definitions": (f"{HERE}test_input.py::test_a_definition_is_bounded_and_a_bad_one_stops_nobody",),
    "I4 expressions": (
        "authoring/test_expressions.py::test_what_no_expression_may_be",
        "authoring/test_expressions.py::test_an_expression_that_would_run_away_is_stopped",
    ),
    "I5 floods": (
        f"{HERE}test_rates.py::test_ten_times_too_much_by_one_key_takes_nothing_from_another",
        f"{HERE}test_rates.py::test_who_fails_too_often_is_refused_by_address_and_costs_the_store_nothing",
        f"{HERE}test_refusals.py::test_who_is_at_work_here_is_not_locked_out_by_guesses_from_the_same_address",
        f"{HERE}test_streams.py::test_one_key_has_so_many_streams_and_long_polls_and_others_have_theirs",
        "server/test_live.py::test_only_so_many_may_watch",
        "server/test_listening.py::test_past_its_connections_it_says_so",
    ),
    "I6 nothing is put into SQL or scripts": (f"{HERE}test_input.py::test_no_filter_finds_more_than_it_says",),
    "I7 no way inside": (
        "tasks/test_guarded.py::test_no_way_out_leads_back_in",
        "tasks/test_guarded.py::test_a_name_that_changes_its_address_between_two_looks_leads_nowhere",
        "engine/test_webhooks.py::test_a_name_of_an_address_inside_gets_no_delivery",
        f"{HERE}test_tokens.py::test_keys_are_fetched_from_public_addresses_alone",
    ),
    "I8 other origins": (
        f"{HERE}test_cors.py::test_nobody_may_by_default",
        f"{HERE}test_cors.py::test_others_may_not_even_then",
    ),
    "D1 what users write is text": (
        "server/dashboard/test_hostile.py::test_nothing_that_anybody_wrote_becomes_anything_but_text",
    ),
    "D2 headers": (
        f"{HERE}test_responses.py::test_every_route_has_the_headers_whatever_it_answers",
        f"{HERE}test_responses.py::test_a_stream_has_them_too",
    ),
    "D3 pages of others": (
        f"{HERE}test_csrf.py::test_a_session_is_not_believed",
        f"{HERE}test_csrf.py::test_every_route_that_changes_something_asks_for_it",
        f"{HERE}test_csrf.py::test_pages_of_others_read_nothing_either",
    ),
    "D4 encryption": (
        "store/test_encryption.py::test_a_file_shows_none_of_fifty_canaries_though_all_were_stored",
        "store/test_encryption.py::test_a_text_that_was_moved_is_not_believed",
        "engine/test_resealing.py::test_keys_change_under_load",
    ),
    "D5 no secret comes out": (
        f"{HERE}test_canaries.py::test_none_of_fifty_canaries_comes_out_anywhere",
        f"{HERE}test_canaries.py::test_a_store_s_password_is_in_no_error_and_no_log",
        f"{HERE}test_responses.py::test_each_request_is_a_line_in_the_log_without_its_secrets",
        f"{HERE}test_responses.py::test_what_fails_has_them_too",
    ),
    "D6 TLS to stores": (
        "store/only/test_redis_refusals.py::test_a_certificate_that_nobody_vouches_for",
        "store/only/test_postgres.py::test_no_tls",
    ),
    "D9 secrets in no command line": ("cli/test_keys.py::test_no_secret_stands_in_a_command_line_or_its_errors",),
}

ELSEWHERE = {
    "A5 what a start may change of a definition": "nothing: it gives the input, and what every start may give",
    "D7 servers with known weaknesses": "too old ones are refused (tests/store/only); nobody warns of the others",
    "D8 what comes along": "`requirements/dev.txt` has hashes, `.ci/audit` asks for advisories; there is no SBOM",
    "D10 a policy": "`SECURITY.md`, and the last section of `docs/security.md`",
}


@pytest.mark.parametrize("point", SHOWN)
def test_each_point_is_shown(point: str) -> None:
    for shown in SHOWN[point]:
        path, _, name = shown.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(encoding="utf-8"), shown


def test_no_point_is_left_out() -> None:
    letters = {"A": 9, "W": 4, "I": 8, "D": 10}
    points = {point.partition(" ")[0] for point in (*SHOWN, *ELSEWHERE)}
    assert points == {f"{letter}{number + 1}" for letter, count in letters.items() for number in range(count)}
