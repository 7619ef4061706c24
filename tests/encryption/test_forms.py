from collections import Counter
from typing import Any

import pytest
from django import forms
from django.core.exceptions import ValidationError
from django.forms.renderers import DjangoTemplates, Jinja2

from encryption import UnknownKeyError, encrypt
from encryption.descriptors import Ciphertext
from encryption.forms import SecretField, SecretInput, SecretJSONField, SecretTextarea, Ticked
from tests.encryption.database import store, stored
from tests.fieldapp.factories import NoteFactory, TenantFactory, VaultFactory
from tests.fieldapp.models import LateSalt, Note, Tenant, UuidTenant, Vault

CANARY = "sk_live_canary_4eC39HqLyjWDarjtT1zdp7dc"
OTHER = "sk_live_other_8Xv0pQ2mN5"

NoteForm = forms.modelform_factory(Note, fields="__all__")
VaultForm = forms.modelform_factory(Vault, fields="__all__")
LateSaltForm = forms.modelform_factory(LateSalt, fields="__all__")


def posted(row: Note, **data: Any) -> dict[str, Any]:
    return {"tenant": row.tenant_id, "note": row.note, **data}


def poison(row: Note) -> str:
    """Give a row a token of a key that nobody has, and return it."""
    token = stored(row, "secret")
    token = f"v2:00000000:{token.partition(':')[2].partition(':')[2]}"
    store(row, "secret", token)
    return token


class PlainForm(forms.Form):
    secret = SecretField(required=False)
    data = SecretJSONField(required=False)


class RequiredForm(forms.Form):
    secret = SecretField()
    data = SecretJSONField()


# -- rendering ------------------------------------------------------------------------------------


def test_a_stored_secret_is_not_rendered_and_not_decrypted(db: None, crypto: Counter[str]) -> None:
    note = NoteFactory(secret=CANARY, data={"key": CANARY})
    crypto.clear()
    form = NoteForm(instance=Note.objects.get(pk=note.pk))
    page = str(form)
    assert CANARY not in page
    assert stored(note, "secret") not in page
    assert "Ciphertext" not in page
    assert page.count("A value is set.") == 2
    assert crypto == {}


@pytest.mark.parametrize("renderer", [DjangoTemplates, Jinja2])
@pytest.mark.parametrize("form_class", [PlainForm, RequiredForm])
def test_no_widget_renders_an_initial_value(renderer: Any, form_class: type[forms.Form]) -> None:
    if renderer is Jinja2:
        pytest.importorskip("jinja2")
    initial = {"secret": CANARY, "data": {"key": CANARY}}
    page = str(form_class(initial=initial, renderer=renderer()).as_div())
    assert CANARY not in page
    assert page.count("A value is set.") == 2
    assert 'type="password"' in page
    assert page.count('autocomplete="new-password"') == page.count('autocomplete="off"') == 1
    assert page.count('spellcheck="false"') == 2
    assert "value=" not in page
    assert "placeholder" not in page


@pytest.mark.parametrize(
    "widget", [forms.TextInput, forms.HiddenInput, forms.Textarea, forms.PasswordInput(None, True)]
)
def test_a_widget_of_another_kind_renders_no_value_either(widget: Any) -> None:
    class Form(forms.Form):
        secret = SecretField(widget=widget)

    bound = Form({"secret": CANARY, "other": ""}, initial={"secret": OTHER})
    assert CANARY not in str(bound)
    page = str(Form(initial={"secret": OTHER})) + str(bound)
    assert OTHER not in page
    assert CANARY not in Form({"secret": CANARY})["secret"].as_text()
    assert CANARY not in Form({"secret": CANARY})["secret"].as_hidden()


def test_the_widget_alone_renders_no_value() -> None:
    for widget in (SecretInput(), SecretTextarea()):
        assert CANARY not in widget.render("secret", CANARY)


def test_a_callable_default_is_not_rendered_as_a_hidden_initial_value() -> None:
    field = SecretField(initial=lambda: CANARY, show_hidden_initial=True)

    class Form(forms.Form):
        secret = field

    assert CANARY not in str(Form())
    assert "initial-secret" not in str(Form())


@pytest.mark.parametrize("form_class", [PlainForm, RequiredForm])
def test_what_was_typed_is_not_sent_back_with_the_errors(form_class: type[forms.Form]) -> None:
    form = form_class({"secret": CANARY, "data": f'["{CANARY}'})
    assert not form.is_valid()
    page = str(form)
    assert CANARY not in page
    assert page.count("Enter the value again") == 2


def test_nobody_is_asked_to_type_again_what_was_not_typed() -> None:
    form = RequiredForm({"secret": "", "data": "["})
    assert str(form["secret"]).count("Enter the value again") == 0
    assert str(form["data"]).count("Enter the value again") == 1


def test_the_box_that_clears_is_offered_where_it_can_clear() -> None:
    assert "secret-clear" not in str(PlainForm())
    assert 'name="secret-clear" id="id_secret-clear"' in str(PlainForm(initial={"secret": OTHER}))
    assert "secret-clear" not in str(RequiredForm(initial={"secret": OTHER}))
    ticked = PlainForm({"secret-clear": "on", "data": "["}, initial={"secret": OTHER})
    assert 'id="id_secret-clear" checked' in str(ticked)


def test_the_browser_requires_a_value_only_while_none_is_stored() -> None:
    assert "required" in str(RequiredForm()["secret"])
    assert "required" not in str(RequiredForm(initial={"secret": OTHER})["secret"])


def test_a_required_field_can_become_optional_in_a_form() -> None:
    form = RequiredForm({"secret-clear": "on"}, initial={"secret": OTHER, "data": {}})
    form.fields["secret"].required = False
    assert "secret-clear" in str(form)
    assert form.is_valid()
    assert form.cleaned_data["secret"] is None


# -- keep, replace, clear -------------------------------------------------------------------------


def test_left_empty_keeps_the_very_token_and_decrypts_nothing(
    db: None, crypto: Counter[str]
) -> None:
    note = NoteFactory(secret=CANARY, data={"key": CANARY})
    before = stored(note, "secret"), stored(note, "data")
    crypto.clear()
    form = NoteForm(posted(note, secret="", data="", note="new"), instance=fresh(note))
    assert form.is_valid()
    assert form.changed_data == ["note"]
    assert isinstance(form.cleaned_data["secret"], Ciphertext)
    form.save()
    assert crypto == {}
    assert (stored(note, "secret"), stored(note, "data")) == before
    assert fresh(note).note == "new"


def fresh(note: Note) -> Note:
    return Note.objects.get(pk=note.pk)


def test_a_field_that_is_not_in_the_data_at_all_is_kept(db: None) -> None:
    note = NoteFactory(secret=CANARY)
    form = NoteForm(posted(note), instance=fresh(note))
    assert form.is_valid()
    form.save()
    assert fresh(note).secret == CANARY


def test_a_typed_value_replaces_the_stored_one(db: None) -> None:
    note = NoteFactory(secret=OTHER, data=[OTHER])
    form = NoteForm(posted(note, secret=CANARY, data='{"a": 1}'), instance=fresh(note))
    assert form.is_valid(), form.errors
    assert form.changed_data == ["secret", "data"]
    form.save()
    assert fresh(note).secret == CANARY
    assert fresh(note).data == {"a": 1}


def test_a_ticked_box_clears(db: None) -> None:
    note = NoteFactory(secret=OTHER, data=[OTHER])
    data = posted(note, **{"secret": "", "secret-clear": "on", "data": "", "data-clear": "on"})
    form = NoteForm(data, instance=fresh(note))
    assert form.is_valid()
    assert form.changed_data == ["secret", "data"]
    form.save()
    assert stored(note, "secret") is None
    assert stored(note, "data") is None


def test_clearing_what_is_not_set_changes_nothing(db: None) -> None:
    note = NoteFactory(secret=None)
    form = NoteForm(posted(note, **{"secret-clear": "on"}), instance=fresh(note))
    assert form.is_valid()
    assert form.changed_data == []


def test_a_new_value_and_a_ticked_box_contradict_each_other() -> None:
    form = PlainForm({"secret": CANARY, "secret-clear": "on"}, initial={"secret": OTHER})
    assert form.errors.get_json_data()["secret"][0]["code"] == "contradiction"
    assert form.has_changed()
    assert CANARY not in str(form)


def test_a_box_that_was_not_offered_clears_nothing(db: None) -> None:
    row = LateSalt.objects.create(secret=OTHER, code="c", owner=TenantFactory())
    data = {"secret": "", "secret-clear": "on", "code": "c", "owner": row.owner_id}
    form = LateSaltForm(data, instance=LateSalt.objects.get())
    assert form.errors.get_json_data()["secret"][0]["code"] == "not_clearable"
    assert LateSalt.objects.get().secret == OTHER


def test_a_value_is_required_until_one_is_stored(db: None) -> None:
    owner = TenantFactory()
    data = {"secret": "", "code": "c", "owner": owner.pk}
    assert LateSaltForm(data).errors.get_json_data()["secret"][0]["code"] == "required"
    LateSaltForm({**data, "secret": CANARY}).save()
    row = LateSalt.objects.get()
    form = LateSaltForm({**data, "code": "d"}, instance=row)
    assert form.is_valid(), form.errors
    form.save()
    assert (LateSalt.objects.get().secret, LateSalt.objects.get().code) == (CANARY, "d")


def test_a_new_row_gets_what_was_typed(db: None) -> None:
    form = NoteForm({"tenant": TenantFactory().pk, "secret": CANARY, "data": "[1, null]"})
    assert form.is_valid(), form.errors
    pk = form.save().pk
    assert Note.objects.get(pk=pk).secret == CANARY
    assert Note.objects.get(pk=pk).data == [1, None]


def test_a_new_row_may_stay_without_a_secret(db: None) -> None:
    form = NoteForm({"tenant": TenantFactory().pk, "secret": "", "data": ""})
    assert form.is_valid(), form.errors
    note = form.save()
    assert stored(note, "secret") is None
    assert stored(note, "data") is None


def test_a_disabled_field_keeps_what_is_stored(db: None) -> None:
    note = NoteFactory(secret=CANARY)
    form = NoteForm(posted(note, **{"secret": OTHER, "data-clear": "1"}), instance=fresh(note))
    form.fields["secret"].disabled = form.fields["data"].disabled = True
    assert form.is_valid()
    assert form.changed_data == []
    form.save()
    assert fresh(note).secret == CANARY
    assert fresh(note).data is not None


def test_a_row_whose_secret_cannot_be_read_can_be_edited(db: None) -> None:
    note = NoteFactory(secret=CANARY)
    token = poison(note)
    with pytest.raises(UnknownKeyError):
        _ = fresh(note).secret
    form = NoteForm(posted(note, secret="", note="edited"), instance=fresh(note))
    assert "A value is set." in str(form)
    assert form.is_valid()
    form.save()
    assert stored(note, "secret") == token
    assert fresh(note).note == "edited"


@pytest.mark.parametrize("data", [{"secret": CANARY}, {"secret-clear": "on"}])
def test_a_secret_that_cannot_be_read_can_be_replaced_and_cleared(
    db: None, data: dict[str, str]
) -> None:
    note = NoteFactory(secret=OTHER)
    poison(note)
    form = NoteForm(posted(note, **data), instance=fresh(note))
    assert form.is_valid()
    form.save()
    assert fresh(note).secret == data.get("secret")


def test_a_kept_secret_moves_along_to_another_tenant(db: None) -> None:
    note = NoteFactory(secret=CANARY)
    form = NoteForm({"tenant": TenantFactory().pk, "secret": ""}, instance=fresh(note))
    assert form.is_valid()
    form.save()
    assert fresh(note).tenant_id != note.tenant_id
    assert fresh(note).secret == CANARY


def test_a_deferred_secret_is_kept(db: None) -> None:
    note = NoteFactory(secret=CANARY)
    form = NoteForm(posted(note, secret=""), instance=Note.objects.defer("secret").get(pk=note.pk))
    assert form.is_valid()
    form.save()
    assert fresh(note).secret == CANARY


def test_an_initial_value_of_a_plain_form_is_kept() -> None:
    form = RequiredForm({"secret": "", "data": ""}, initial={"secret": OTHER, "data": {}})
    assert form.is_valid()
    assert form.cleaned_data == {"secret": OTHER, "data": {}}
    assert not form.has_changed()


def test_without_null_nothing_typed_is_the_empty_text() -> None:
    assert SecretField(required=False, nullable=False).clean("") == ""
    assert SecretField(required=False).clean("") is None
    with pytest.raises(ValidationError, match="required"):
        SecretJSONField(required=False, nullable=False).clean("")


# -- what is typed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "  padded\t",
        " ",
        "ключ 🔑",
        "**",
        "a*b*c",
        "-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
        "banner\n****************\ntext",
        "x" * 65_536,
        "é" * 32_768,
        "{}",
        "null",
        "False",
        "setting",
    ],
)
def test_a_text_is_stored_as_it_was_typed(db: None, text: str) -> None:
    note = NoteFactory(secret=None)
    form = NoteForm(posted(note, secret=text), instance=fresh(note))
    assert form.is_valid(), form.errors
    form.save()
    assert fresh(note).secret == text


def test_a_pasted_token_is_stored_as_that_text(db: None) -> None:
    note = NoteFactory(secret=CANARY)
    token = stored(note, "secret")
    for text in (token, encrypt("x", "tenant")):
        form = NoteForm(posted(note, secret=text), instance=fresh(note))
        assert form.is_valid()
        form.save()
        assert fresh(note).secret == text


REFUSED = {
    "a\0b": "null_character",
    "a\ud800b": "surrogate",
    "x" * 65_537: "too_long",
    "é" * 32_769: "too_long",
    "***": "mask",
    "••••••••": "mask",
    "********************": "mask",
    " ●●●● ": "mask",
    "••••7dc9": "mask",
    "sk_live_****7dc9": "mask",
    "set": "mask",
    "not set": "mask",
    "<Ciphertext 0123abcd>": "mask",
    "<Ciphertext v1>": "mask",
    "<Ciphertext>": "mask",
}


@pytest.mark.parametrize(("text", "code"), REFUSED.items(), ids=range(len(REFUSED)))
def test_a_text_that_is_no_secret_is_refused(text: str, code: str) -> None:
    form = RequiredForm({"secret": text, "data": "1"})
    errors = form.errors.get_json_data()
    assert [error["code"] for error in errors["secret"]] == [code]
    assert text not in str(errors)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("[]", []),
        ("{}", {}),
        ("0", 0),
        ("false", False),
        ('""', ""),
        (' {"a": [1, 2.5, null, "set"], "set": "x"} ', {"a": [1, 2.5, None, "set"], "set": "x"}),
        ('"\\ud83d\\udd11"', "🔑"),
    ],
)
def test_json_is_parsed(db: None, typed: str, value: object) -> None:
    note = NoteFactory(data=None)
    form = NoteForm(posted(note, data=typed), instance=fresh(note))
    assert form.is_valid(), form.errors
    form.save()
    assert fresh(note).data == value
    assert type(fresh(note).data) is type(value)


REFUSED_JSON = {
    '{"key": "' + CANARY: "invalid_json",
    f"[{CANARY}]": "invalid_json",
    f'{{"{CANARY}": 1, "{CANARY}": 2}}': "invalid_json",
    "NaN": "invalid_json",
    "[-Infinity]": "invalid_json",
    "1e999": "invalid_json",
    "1" * 5000: "invalid_json",
    "[" * 60_000: "invalid_json",
    "[" * 20_000 + "]" * 20_000: "invalid_json",
    '["\\ud800"]': "surrogate",
    '{"\\ud800": 1}': "surrogate",
    '{"a": "\\u0000"}': "null_character",
    '{"\\u0000": 1}': "null_character",
    '"' + "x" * 65_535 + '"': "too_long",
    '{"password": "••••••••"}': "mask",
    '{"password": {"set": true}}': "mask",
    '{"set": false}': "mask",
    "null": "json_null",
}


@pytest.mark.parametrize(("text", "code"), REFUSED_JSON.items(), ids=range(len(REFUSED_JSON)))
def test_json_that_is_no_secret_is_refused(text: str, code: str) -> None:
    form = RequiredForm({"secret": OTHER, "data": text})
    errors = form.errors.get_json_data()
    assert [error["code"] for error in errors["data"]] == [code]
    assert CANARY not in str(errors)
    assert CANARY not in str(form)


def test_the_encoder_and_decoder_of_the_model_field_are_used() -> None:
    field = VaultForm.base_fields["data"]
    assert isinstance(field, SecretJSONField)
    assert field.encoder is Vault._meta.get_field("data").encoder is not None


def test_lines_of_a_text_area_end_as_they_were_typed() -> None:
    field = SecretField(widget=SecretTextarea)
    typed = field.widget.value_from_datadict({"key": "a\r\nb\r\n"}, {}, "key")
    assert field.clean(typed) == "a\nb\n"


def test_a_validator_that_quotes_the_value_is_not_quoted() -> None:
    def refuse(value: str) -> None:
        raise ValidationError(
            [
                ValidationError("%(value)s is bad", params={"value": value}, code="bad"),
                ValidationError("Too weak.", params={"value": value}, code="weak"),
            ]
        )

    with pytest.raises(ValidationError) as caught:
        SecretField(validators=[refuse]).clean(CANARY)
    assert caught.value.messages == ["Enter a valid value.", "Too weak."]
    assert [error.code for error in caught.value.error_list] == ["echo", "weak"]
    assert CANARY not in repr([vars(error) for error in caught.value.error_list])


def test_the_lengths_of_a_char_field_are_checked() -> None:
    with pytest.raises(ValidationError, match="at most 5 characters"):
        SecretField(max_length=5).clean("x" * 6)


# -- formsets -------------------------------------------------------------------------------------


def formset_data(prefix: str, total: int, initial: int, **data: Any) -> dict[str, Any]:
    return {
        f"{prefix}-TOTAL_FORMS": total,
        f"{prefix}-INITIAL_FORMS": initial,
        **{f"{prefix}-{key}": value for key, value in data.items()},
    }


def test_an_inline_formset_keeps_replaces_clears_and_adds(owner: UuidTenant) -> None:
    names = ["kept", "replaced", "cleared"]
    vaults = [VaultFactory(tenant=owner, name=name, secret=OTHER) for name in names]
    FormSet = forms.inlineformset_factory(  # noqa: N806
        UuidTenant, Vault, fields=["secret", "name"], extra=2
    )
    rows = {vault.pk: place for place, vault in enumerate(owner.vaults.all())}
    data = {
        **{f"{rows[vault.pk]}-id": vault.pk for vault in vaults},
        **{f"{rows[vault.pk]}-name": vault.name for vault in vaults},
        f"{rows[vaults[1].pk]}-secret": CANARY,
        f"{rows[vaults[2].pk]}-secret-clear": "on",
        "3-name": "new",
        "3-secret": CANARY,
        "4-name": "",
        "4-secret": "",
    }
    formset = FormSet(formset_data("vaults", 5, 3, **data), instance=owner, prefix="vaults")
    assert OTHER not in str(formset)
    assert CANARY not in str(formset)
    assert formset.is_valid(), formset.errors
    before = stored(vaults[0], "secret")
    formset.save()
    assert stored(vaults[0], "secret") == before
    found = dict.fromkeys([*names, "new"])
    found.update({vault.name: vault.secret for vault in Vault.objects.all()})
    assert found == {"kept": OTHER, "replaced": CANARY, "cleared": None, "new": CANARY}


def test_a_row_can_be_added_together_with_its_tenant(db: None) -> None:
    tenant = Tenant(name="new")
    FormSet = forms.inlineformset_factory(Tenant, Note, fields=["secret"], extra=1)  # noqa: N806
    formset = FormSet(
        formset_data("notes", 1, 0, **{"0-secret": CANARY}), instance=tenant, prefix="notes"
    )
    assert formset.is_valid(), formset.errors
    tenant.save()
    formset.save()
    assert Note.objects.get(tenant=tenant).secret == CANARY


def test_the_sentinels_survive_a_copy() -> None:
    field = PlainForm().fields["secret"]
    assert field.clean(Ticked("clear"), OTHER) is None


def test_a_form_field_can_be_asked_for_another_class(db: None) -> None:
    field = Note._meta.get_field("secret").formfield(form_class=forms.CharField)
    assert type(field) is forms.CharField


# -- a copy of a row ------------------------------------------------------------------------------


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("kind", [SecretField, SecretJSONField])
def test_a_copy_of_a_secret_is_entered_or_done_without(
    kind: type[SecretField], required: bool, nullable: bool
) -> None:
    field = kind(required=required, nullable=nullable)
    field.is_copy = True
    for nothing in (None, ""):
        with pytest.raises(ValidationError, match="Enter the value again"):
            field.clean(nothing)
    assert field.clean('"new"') == ("new" if kind is SecretJSONField else '"new"')
    if field.clearable:
        assert field.clean(Ticked.CLEAR) == (None if nullable else "")
    # A text without NULL may be empty; JSON has no empty value.
    assert field.clearable is (not required and (nullable or kind is SecretField))
    state = field.bound_data("", None)
    assert (state.is_set, state.is_copy, state.clearable) == (True, True, field.clearable)
    page = field.widget.render("secret", state)
    assert "A copy does not get the value that the original has." in page
    assert ('name="secret-clear"' in page) is field.clearable


def test_a_disabled_secret_of_a_copy_asks_for_nothing() -> None:
    field = SecretField(required=False, disabled=True)
    field.is_copy = True
    assert field.clean(None) is None
