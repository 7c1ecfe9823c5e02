"""Starts the command line and ends it; everything else is imported when Ctrl-C is taken care of."""

from streams.cli.interrupts import end_on_interrupt

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    end_on_interrupt()
    from streams.cli.ending import describe_failed_output, end_process

    try:
        from streams.cli.app import run

        run()
    except SystemExit as ended:
        end_process(ended.code)
    except OSError as error:  # help and version are printed outside of any command
        end_process(describe_failed_output(error))
