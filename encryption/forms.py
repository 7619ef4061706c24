from django import forms
class SecretField(forms.CharField): pass
