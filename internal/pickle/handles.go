package pickle

import (
	"slices"
	"strings"
)

// Names of the classes and functions in the pickles of handles and managers.
const (
	sharedMemory = "multiprocessing.shared_memory"
	managers     = "multiprocessing.managers"
	contexts     = "multiprocessing.context"
)

var (
	blockClass     = Global{sharedMemory, "SharedMemory"}
	listClass      = Global{sharedMemory, "ShareableList"}
	partial        = Global{"functools", "partial"}
	rebuildPartial = Global{"multiprocessing.reduction", "_rebuild_partial"}
	tokenClass     = Global{managers, "Token"}
)

// SharedMemory returns what Python pickles for a SharedMemory.
func SharedMemory(name string, size int) *Call {
	return &Call{Func: blockClass, Args: Tuple{name, false, int64(size)}}
}

// ShareableList returns what Python pickles for a ShareableList:
// functools.partial(ShareableList, name=name)().
func ShareableList(name string) *Call {
	return &Call{Args: Tuple{}, Func: &Call{
		Func: partial, Args: Tuple{listClass},
		State: Tuple{listClass, Tuple{}, Dict{{"name", name}}, nil}, HasState: true,
	}}
}

// ForkingShareableList returns what multiprocessing's own pickler, that of its
// connections and queues, makes of the same.
func ForkingShareableList(name string) *Call {
	return &Call{Args: Tuple{}, Func: &Call{
		Func: rebuildPartial, Args: Tuple{listClass, Tuple{}, Dict{{"name", name}}},
	}}
}

// Handle tells whether v is what the functions above return, of which block or
// list. The size is 0 for a list.
func Handle(v any) (name string, size int, isList, ok bool) {
	c, ok := v.(*Call)
	if !ok || c == nil || c.New || c.HasState {
		return "", 0, false, false
	}
	if c.Func == any(blockClass) && len(c.Args) == 3 {
		name, isText := c.Args[0].(string)
		size, isInt := c.Args[2].(int64)
		// Where create is true, Python would create it.
		ok := isText && isInt && c.Args[1] == any(false) && size >= 0 && int64(int(size)) == size
		if !ok {
			return "", 0, false, false
		}
		return name, int(size), false, true
	}
	// Otherwise it is f(), where f is partial(ShareableList, name=name).
	f, ok := c.Func.(*Call)
	if !ok || f == nil || f.New || len(c.Args) != 0 {
		return "", 0, false, false
	}
	var how Tuple // function, arguments, keywords
	switch {
	case f.Func == any(rebuildPartial) && !f.HasState && len(f.Args) == 3:
		how = f.Args
	case f.Func == any(partial) && len(f.Args) == 1 && f.Args[0] == any(listClass):
		if s, ok := f.State.(Tuple); ok && len(s) == 4 && s[3] == nil {
			how = s[:3]
		}
	}
	if how == nil || how[0] != any(listClass) {
		return "", 0, false, false
	}
	args, ok1 := how[1].(Tuple)
	keywords, ok2 := how[2].(Dict)
	if !ok1 || !ok2 || len(args) != 0 || len(keywords) != 1 || keywords[0].Key != any("name") {
		return "", 0, false, false
	}
	name, ok = keywords[0].Value.(string)
	return name, 0, ok, ok
}

// Token returns what Python pickles for a manager's Token. The address is a
// string, []byte or Tuple, as Python's are.
func Token(typeid string, address any, id string) *Call {
	return &Call{Func: tokenClass, Args: Tuple{}, New: true, State: Tuple{typeid, address, id}, HasState: true}
}

// AsToken tells whether v is what Token returns, and of what.
func AsToken(v any) (typeid string, address any, id string, ok bool) {
	c, ok := v.(*Call)
	if !ok || c == nil || c.Func != any(tokenClass) || !c.New || len(c.Args) != 0 {
		return "", nil, "", false
	}
	state, ok := c.State.(Tuple)
	if !ok || len(state) != 3 {
		return "", nil, "", false
	}
	typeid, ok1 := state[0].(string)
	id, ok2 := state[2].(string)
	switch state[1].(type) {
	case string, []byte, Tuple:
		if ok1 && ok2 {
			return typeid, state[1], id, true
		}
	}
	return "", nil, "", false
}

// Exception returns what Python pickles for an exception. A class without a dot
// in it is a builtin one, as "KeyError"; others are whole, as
// "multiprocessing.managers.RemoteError".
func Exception(class string, args ...any) *Call {
	g := Global{"builtins", class}
	if dot := strings.LastIndexByte(class, '.'); dot >= 0 {
		g = Global{class[:dot], class[dot+1:]}
	}
	return &Call{Func: g, Args: append(Tuple{}, args...)}
}

// AsException tells whether v is an exception of a class that ManagerGlobals
// has, and what Exception was given.
func AsException(v any) (class string, args Tuple, ok bool) {
	c, ok := v.(*Call)
	if !ok || c == nil || c.New {
		return "", nil, false
	}
	g, ok := c.Func.(Global)
	if !ok || !isException(g) {
		return "", nil, false
	}
	if g.Module == "builtins" {
		return g.Name, c.Args, true
	}
	return g.Module + "." + g.Name, c.Args, true
}

func isException(g Global) bool {
	switch g.Module {
	case "builtins":
		_, ok := slices.BinarySearch(exceptions, g.Name)
		return ok
	case managers:
		return g.Name == "RemoteError"
	case contexts:
		switch g.Name {
		case "AuthenticationError", "BufferTooShort", "ProcessError", "TimeoutError":
			return true
		}
	}
	return false
}

// exceptions are the builtin ones of CPython 3.8 to 3.15, sorted.
var exceptions = []string{
	"ArithmeticError", "AssertionError", "AttributeError", "BaseException",
	"BaseExceptionGroup", "BlockingIOError", "BrokenPipeError", "BufferError",
	"BytesWarning", "ChildProcessError", "ConnectionAbortedError", "ConnectionError",
	"ConnectionRefusedError", "ConnectionResetError", "DeprecationWarning", "EOFError",
	"EncodingWarning", "Exception", "ExceptionGroup", "FileExistsError",
	"FileNotFoundError", "FloatingPointError", "FutureWarning", "GeneratorExit",
	"ImportError", "ImportWarning", "IndentationError", "IndexError",
	"InterruptedError", "IsADirectoryError", "KeyError", "KeyboardInterrupt",
	"LookupError", "MemoryError", "ModuleNotFoundError", "NameError",
	"NotADirectoryError", "NotImplementedError", "OSError", "OverflowError",
	"PendingDeprecationWarning", "PermissionError", "ProcessLookupError", "PythonFinalizationError",
	"RecursionError", "ReferenceError", "ResourceWarning", "RuntimeError",
	"RuntimeWarning", "StopAsyncIteration", "StopIteration", "SyntaxError",
	"SyntaxWarning", "SystemError", "SystemExit", "TabError",
	"TimeoutError", "TypeError", "UnboundLocalError", "UnicodeDecodeError",
	"UnicodeEncodeError", "UnicodeError", "UnicodeTranslateError", "UnicodeWarning",
	"UserWarning", "ValueError", "Warning", "ZeroDivisionError",
}

// HandleGlobals is the allow-list for values and handles.
func HandleGlobals(module, name string) bool {
	switch (Global{module, name}) {
	case blockClass, listClass, partial, rebuildPartial:
		return true
	}
	return false
}

// ManagerGlobals is the allow-list for what managers and their clients exchange:
// handles, tokens and exceptions.
func ManagerGlobals(module, name string) bool {
	switch g := (Global{module, name}); g {
	case tokenClass, reconstructor, object: // these two make tokens before protocol 2
		return true
	default:
		return HandleGlobals(module, name) || isException(g)
	}
}
