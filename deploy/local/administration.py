"""What can be asked of and done to a running node from inside: depths, alarms, users, connections."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from deploy.local.control import BrokerError

# The counters of a quorum queue that RabbitMQ publishes are up to five seconds old; its state machine knows better.
_DEPTHS = """
[begin
    [{{name, {{resource, _, queue, Name}}}}] = rabbit_amqqueue:info(Queue, [name]),
    {{Ready, Unacked, Consumers}} = case amqqueue:get_type(Queue) of
        rabbit_quorum_queue ->
            {{ok, {{_, Found}}, _}} = ra:local_query(amqqueue:get_pid(Queue), fun(State) ->
                {{rabbit_fifo:query_messages_ready(State),
                 rabbit_fifo:query_messages_checked_out(State),
                 rabbit_fifo:query_consumer_count(State)}}
            end),
            Found;
        _ ->
            Items = [messages_ready, messages_unacknowledged, consumers],
            list_to_tuple([Value || {{_, Value}} <- rabbit_amqqueue:info(Queue, Items)])
    end,
    io_lib:format("~b ~b ~b ~ts~n", [Ready, Unacked, Consumers, Name])
end || Queue <- rabbit_amqqueue:list({vhost})]
"""


class Depth(NamedTuple):
    """How full one queue is, in messages, and how many consumers it has."""

    ready: int
    unacked: int
    consumers: int


class Administration(ABC):
    """RabbitMQ's own operations, for whatever can evaluate Erlang expressions in a node."""

    def __init__(self) -> None:
        self._undo: dict[str, str] = {}  # by what was changed: the expression that sets it back

    @abstractmethod
    def eval(self, expression: str, timeout: float = 10.0) -> str:
        """Evaluate an Erlang expression, ending with a full stop, and return its value as text.

        Args:
            expression: for instance `rabbit:is_running().`
            timeout: seconds for the whole call.
        Raises:
            BrokerError: no answer in time, or the expression fails.
        """

    @property
    def version(self) -> str:
        """RabbitMQ's version, for instance `3.10.8`."""
        return self.eval("list_to_binary(rabbit_misc:version()).")

    def queue_depths(self, vhost: str = "/") -> dict[str, Depth]:
        """Return ready and unacked messages and the consumers of every queue, as they are at this moment."""
        lines = self.eval(f"unicode:characters_to_binary({_DEPTHS.format(vhost=_binary(vhost))}).")
        depths = {}
        for line in lines.splitlines():
            ready, unacked, consumers, name = line.split(" ", 3)
            depths[name] = Depth(int(ready), int(unacked), int(consumers))
        return depths

    def bindings(self, exchange: str, vhost: str = "/") -> set[tuple[str, str]]:
        """Return what is bound to an exchange: the names of the queues or exchanges, and the binding keys."""
        source = f"{{resource, {_binary(vhost)}, exchange, {_binary(exchange)}}}"
        lines = self.eval(
            'unicode:characters_to_binary([io_lib:format("~ts ~ts~n", [Name, Key]) ||'
            f" {{binding, _, Key, {{resource, _, _, Name}}, _}} <- rabbit_binding:list_for_source({source})])."
        )
        return {(name, key) for name, _, key in (line.partition(" ") for line in lines.splitlines())}

    def close_all_connections(self, reason: str = "closed by the operator") -> None:
        """Let the broker close every AMQP connection with a 320 (CONNECTION_FORCED) and this reason."""
        pids = "rabbit_networking:connections()"
        self.eval(f"[rabbit_networking:close_connection(Pid, {_string(reason)}) || Pid <- {pids}].")

    def set_memory_alarm(self, on: bool) -> None:
        """Raise the memory alarm, which blocks every publishing connection, or clear it; in force on return."""
        change = "vm_memory_monitor:set_vm_memory_high_watermark"
        if "watermark" not in self._undo:
            self._undo["watermark"] = f"{change}({self.eval('vm_memory_monitor:get_vm_memory_high_watermark().')})."
        self.eval(f"{change}(0.0000001)." if on else self._undo["watermark"])
        alarm = "lists:keymember({resource_limit, memory, node()}, 1, rabbit_alarm:get_alarms())"
        looks = f"fun Look(0) -> late; Look(N) -> case {alarm} of {str(on).lower()} -> ok; _ -> "
        if self.eval(f"({looks} timer:sleep(10), Look(N - 1) end end)(500).") != "ok":
            raise BrokerError(f"the memory alarm is not {'raised' if on else 'cleared'} after 5 s")

    def set_consumer_timeout(self, milliseconds: int, tick: int = 200) -> None:
        """Close channels whose deliveries stay unacked for longer than this; holds for channels opened from now on.

        Args:
            milliseconds: the longest time to an ack.
            tick: milliseconds between two checks (RabbitMQ's own default is a minute).
        """
        for key, value in (("consumer_timeout", milliseconds), ("channel_tick_interval", tick)):
            if key not in self._undo:
                before = self.eval(f"element(2, application:get_env(rabbit, {key})).")
                self._undo[key] = f"application:set_env(rabbit, {key}, {before})."
            self.eval(f"application:set_env(rabbit, {key}, {value:d}).")

    def undo_faults(self) -> None:
        """Clear the memory alarm and the consumer timeout that were set here."""
        if "watermark" in self._undo:
            self.set_memory_alarm(False)
        for expression in self._undo.values():
            self.eval(expression)
        self._undo.clear()

    def connection_count(self) -> int:
        """Return how many AMQP connections are open."""
        return int(self.eval("length(rabbit_networking:connections())."))

    def flush_metadata(self) -> None:
        """Write down which quorum queues exist, so that a `kill()` right now spares them.

        RabbitMQ does so by itself only every half second. A queue declared later than that before a crash is broken
        for good: declaring it again succeeds, but whatever uses it waits 65 s and fails with 541 (seen on 3.10.8).
        """
        self.eval("[ok = dets:sync(Table) || Table <- dets:all()].")

    def delete_names(self, prefix: str = "", vhost: str = "/") -> None:
        """Delete every queue and every exchange whose name begins with `prefix`, except the broker's own."""
        begins = f"lists:prefix({_string(prefix)}, unicode:characters_to_list(Name))"
        foreign = f'Name =/= <<>> andalso not lists:prefix("amq.", binary_to_list(Name)) andalso {begins}'
        self.eval(
            "lists:foreach(fun(Queue) -> {resource, _, queue, Name} = amqqueue:get_name(Queue),"
            # An exclusive queue may end by itself meanwhile, with the connection of a process that was killed.
            f" {begins} andalso try rabbit_amqqueue:delete(Queue, false, false, <<>>)"
            " catch exit:{normal, _} -> gone; exit:{noproc, _} -> gone end end,"
            f" rabbit_amqqueue:list({_binary(vhost)})),"
            "lists:foreach(fun({resource, _, exchange, Name} = Exchange) ->"
            f" {foreign} andalso rabbit_exchange:delete(Exchange, false, <<>>) end,"
            f" rabbit_exchange:list_names()).",
            timeout=30.0,
        )

    def add_user(self, name: str, password: str, configure: str, write: str, read: str, vhost: str = "/") -> None:
        """Add a user without tags and with these permission patterns, or give an existing one these.

        Args:
            name: user name.
            password: its password.
            configure: pattern of the names it may declare and delete (RabbitMQ does not anchor patterns).
            write: pattern of the names it may publish to or bind.
            read: pattern of the names it may consume or bind from.
            vhost: the virtual host that the permissions hold for.
        """
        user, actor = _binary(name), _binary("warren")
        self.eval(
            f"case rabbit_auth_backend_internal:exists({user}) of"
            f" true -> ok = rabbit_auth_backend_internal:change_password({user}, {_binary(password)}, {actor});"
            f" false -> ok = rabbit_auth_backend_internal:add_user({user}, {_binary(password)}, {actor}) end,"
            f"ok = rabbit_auth_backend_internal:set_permissions({user}, {_binary(vhost)},"
            f" {_binary(configure)}, {_binary(write)}, {_binary(read)}, {actor})."
        )


def _string(text: str) -> str:
    """Return the Erlang string (a list of code points) with this text."""
    return "[" + ",".join(str(ord(character)) for character in text) + "]"


def _binary(text: str) -> str:
    """Return the Erlang binary with this text in UTF-8, safe whatever the text holds."""
    return "<<" + ",".join(str(byte) for byte in text.encode()) + ">>"
