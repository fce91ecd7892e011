%% Evaluated inside a private node once it has booted (erl -eval file:eval(...)): answers Erlang expressions on a
%% unix socket that only the node's owner can reach, because one rabbitmqctl call costs a second and this one a
%% millisecond. Packets carry a 4-byte length; an answer starts with + (the value) or - (the reason).
%%
%% "lifeline": the connection that says it stands for the owner's life. When it closes without "release", the owner
%% has died without stopping the node, so the node and its epmd end themselves instead of staying behind for ever.

Abandon = fun() ->
    os:cmd("kill " ++ os:getenv("WARREN_NODE_EPMD_PID")),
    file:del_dir_r(os:getenv("WARREN_NODE_SCRATCH")),
    erlang:halt(1, [{flush, false}])
end.

Answer = fun(Expression) ->
    try
        {ok, Tokens, _} = erl_scan:string(unicode:characters_to_list(Expression)),
        {ok, Forms} = erl_parse:parse_exprs(Tokens),
        {value, Value, _} = erl_eval:exprs(Forms, []),
        case is_binary(Value) of
            true -> [$+, Value];
            false -> [$+, unicode:characters_to_binary(io_lib:format("~0tp", [Value]))]
        end
    catch Class:Reason ->
        [$-, unicode:characters_to_binary(io_lib:format("~0tp: ~0tp", [Class, Reason]))]
    end
end.

Serve = fun Serve(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, <<"lifeline">>} ->
            gen_tcp:send(Socket, "+"),
            case gen_tcp:recv(Socket, 0) of
                {ok, <<"release">>} -> gen_tcp:send(Socket, "+");
                _ -> Abandon()
            end;
        {ok, Expression} ->
            gen_tcp:send(Socket, Answer(Expression)),
            Serve(Socket);
        {error, _} ->
            gen_tcp:close(Socket)
    end
end.

Accept = fun Accept(Listener, Timeout) ->
    case gen_tcp:accept(Listener, Timeout) of
        {ok, Socket} ->
            Handler = spawn(fun() -> receive go -> Serve(Socket) end end),
            ok = gen_tcp:controlling_process(Socket, Handler),
            Handler ! go,
            Accept(Listener, infinity);
        {error, timeout} ->
            Abandon()
    end
end.

%% The first connection must come soon: an owner killed while the node booted never opens its lifeline.
spawn(fun() ->
    Path = os:getenv("WARREN_NODE_CONTROL"),
    file:delete(Path),
    {ok, Listener} = gen_tcp:listen(0, [{ifaddr, {local, Path}}, binary, {packet, 4}, {active, false}]),
    Accept(Listener, 60000)
end).
