from cli import naming
from cli.main import app

app.add_typer(naming.app, name="naming")
app(prog_name="mazevault")
