from cli import naming
from cli.main import app
from cli.simulation.command import simulate

app.add_typer(naming.app, name="naming")
app.command()(simulate)
app(prog_name="mazevault")
