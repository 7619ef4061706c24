from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("connections", "0003_project_of_events"),
    ]

    operations = [
        migrations.RemoveField("credentialevent", "project"),
        migrations.RenameField("credentialevent", "project_ref", "project_id"),
        migrations.AlterField(
            "credentialevent",
            "project_id",
            models.UUIDField("project id", null=True, db_index=True),
        ),
    ]
