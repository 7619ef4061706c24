"""The answers as tables of docs/comparison.md; each of our own links to the test that holds it."""

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.comparison.packages import OURS, PEERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "comparison.md"
END = "<!-- end -->"
ANSWERS = Path(__file__).parent / "answers.json"

#: The table of those that cannot be tried, and its answers.
REFUSED = "Not tried"

Answers = Mapping[str, Mapping[str, str]]

#: The tables: each question, and where our answer is tested (a file of tests/, a test in it).
TABLES: dict[str, dict[str, tuple[str, str]]] = {
    "Writing": {
        "`save()`": (
            "encryption/test_fields_writing.py",
            "test_create_encrypts_for_the_tenant_and_the_column",
        ),
        "`bulk_create()`": (
            "encryption/test_fields_writing.py",
            "test_each_row_is_encrypted_for_its_own_tenant",
        ),
        "`bulk_update()`": (
            "encryption/test_managers.py",
            "test_bulk_update_encrypts_each_for_its_own_row",
        ),
        "`bulk_create(update_conflicts=True)`": (
            "encryption/test_fields_writing.py",
            "test_an_upsert_that_takes_both_is_readable",
        ),
        '`update(secret="x")`': (
            "encryption/test_refused_queries.py",
            "test_update_of_it_is_refused",
        ),
        '`update(secret=F("plain"))`': (
            "encryption/test_refused_queries.py",
            "test_update_of_it_is_refused",
        ),
        '`update(secret=Upper(Value("x")))`': (
            "encryption/test_refused_queries.py",
            "test_update_of_it_is_refused",
        ),
        "a migration that adds the field with a default": (
            "encryption/test_migrations.py",
            "test_a_default_is_not_written_to_every_row",
        ),
        "`save()` of a row whose secret was not changed": (
            "encryption/test_fields_writing.py",
            "test_an_unread_secret_is_written_back_untouched",
        ),
        "moving a row to another tenant, and `save()`": (
            "encryption/test_salt_changes.py",
            "test_a_moved_row_is_encrypted_anew",
        ),
        '`""` and `None`': (
            "encryption/test_fields_writing.py",
            "test_a_value_can_be_cleared_and_set_again",
        ),
        "types inside of JSON": (
            "encryption/test_fields_writing.py",
            "test_a_json_value_comes_back_with_its_type",
        ),
        "keys of a JSON object in the column": (
            "encryption/test_fields_writing.py",
            "test_json_is_encrypted_as_a_whole_and_compact",
        ),
    },
    "Reading": {
        "a changed ciphertext, read": (
            "encryption/test_fields_reading.py",
            "test_a_changed_token_is_an_error_and_breaks_no_list",
        ),
        "a list with one such row": (
            "encryption/test_fields_reading.py",
            "test_a_changed_token_is_an_error_and_breaks_no_list",
        ),
        "a ciphertext put into the row of another tenant": (
            "encryption/test_fields_reading.py",
            "test_between_tenants",
        ),
        "a ciphertext put into another row of the tenant": (
            "encryption/test_fields_reading.py",
            "test_between_bound_rows_of_one_tenant",
        ),
        "a ciphertext put into another column": (
            "encryption/test_fields_reading.py",
            "test_between_columns",
        ),
        "plaintext in the column, read": (
            "encryption/test_adoption.py",
            "test_without_it_plaintext_is_an_error_that_names_it",
        ),
        "two equal values in the database": (
            "encryption/test_fields_writing.py",
            "test_every_encryption_has_its_own_iv",
        ),
    },
    "Querying": {
        "`values_list()`": (
            "encryption/test_fields_reading.py",
            "test_values_list_gives_ciphertexts",
        ),
        '`filter(secret="x")`': (
            "encryption/test_refused_queries.py",
            "test_no_value_can_be_compared_with",
        ),
        '`filter(secret__startswith="x")`': (
            "encryption/test_refused_queries.py",
            "test_no_value_can_be_compared_with",
        ),
        '`order_by("secret")`': (
            "encryption/test_refused_queries.py",
            "test_ordering_by_it_is_refused",
        ),
        "`unique=True`": ("encryption/test_checks.py", "test_what_cannot_work_is_refused"),
        "looking a value up by a field made for it": (
            "encryption/test_blind_lookups.py",
            "test_a_value_of_a_tenant",
        ),
    },
    "Where a value comes out": {
        "`dumpdata`": (
            "encryption/test_fixtures.py",
            "test_dumpdata_and_loaddata_keep_every_token",
        ),
        "`pickle` and caches, after the value was read": (
            "encryption/test_copies.py",
            "test_a_cache_holds_no_plaintext",
        ),
        "the page of a `ModelForm`": (
            "encryption/test_forms.py",
            "test_a_stored_secret_is_not_rendered_and_not_decrypted",
        ),
        "REST framework's `ModelSerializer`": (
            "encryption/test_serializers.py",
            "test_a_model_serializer_gives_presence_alone_and_decrypts_nothing",
        ),
        "a token typed into a form": (
            "encryption/test_forms.py",
            "test_a_pasted_token_is_stored_as_that_text",
        ),
    },
    "Keys": {
        "rows under an older key, while both are set": (
            "encryption/test_fields_reading.py",
            "test_a_fallback_reads_and_the_primary_writes",
        ),
        "a command that changes the key": (
            "encryption/test_rotation.py",
            "test_every_row_is_readable_with_the_new_key_alone",
        ),
        "with a wrong key, a read gives": (
            "encryption/test_fields_reading.py",
            "test_with_another_master_key_only_new_rows_are_read",
        ),
        "and then `save()`": (
            "encryption/test_fields_reading.py",
            "test_with_another_master_key_only_new_rows_are_read",
        ),
        "after a change of `SECRET_KEY` alone": (
            "encryption/test_conf.py",
            "test_djangos_secret_key_is_no_part_of_a_key",
        ),
        "type annotations (`py.typed`)": (
            "encryption/core/test_imports.py",
            "test_the_package_says_that_it_is_typed",
        ),
    },
}


def table(questions: Mapping[str, tuple[str, str]], answers: Answers) -> str:
    heads = ["", "`encryption`", *(peer.requirements[0].replace("==", " ") for peer in PEERS)]
    rows = [heads, ["---"] * len(heads)]
    for question, (file, test) in questions.items():
        ours = f'[{answers[OURS.name][question]}](../tests/{file} "{test}")'
        rows.append([question, ours, *(answers[peer.name][question] for peer in PEERS)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def refused(answers: Answers) -> str:
    rows = [("package", "what happens"), ("---", "---"), *answers[REFUSED].items()]
    return "\n".join(f"| {name} | {what} |" for name, what in rows)


def written(page: str, answers: Answers) -> str:
    """The page with what stands between the marks of each table replaced."""
    tables = {title: table(questions, answers) for title, questions in TABLES.items()}
    for title, text in {**tables, REFUSED: refused(answers)}.items():
        mark = f"<!-- {title} -->\n"
        before, _, rest = page.partition(mark)
        page = f"{before}{mark}{text}\n{END}{rest.partition(END)[2]}"
    return page


def load() -> Answers:
    answers: Answers = json.loads(ANSWERS.read_text(encoding="utf-8"))
    return answers


def write(answers: Answers) -> None:
    text = json.dumps(answers, indent=2, ensure_ascii=False, sort_keys=True)
    ANSWERS.write_text(text + "\n", encoding="utf-8")
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), answers), encoding="utf-8")
