package pickle

import "fmt"

// The opcodes of the subset. Python's pickletools.py describes each.
const (
	opProto           = '\x80'
	opFrame           = '\x95'
	opStop            = '.'
	opMark            = '('
	opNone            = 'N'
	opTrue            = '\x88'
	opFalse           = '\x89'
	opInt             = 'I' // text, like all opcodes whose argument is a line
	opLong            = 'L'
	opBinInt          = 'J'
	opBinInt1         = 'K'
	opBinInt2         = 'M'
	opLong1           = '\x8a'
	opLong4           = '\x8b'
	opFloat           = 'F'
	opBinFloat        = 'G'
	opUnicode         = 'V'
	opShortBinUnicode = '\x8c'
	opBinUnicode      = 'X'
	opBinUnicode8     = '\x8d'
	opShortBinBytes   = 'C'
	opBinBytes        = 'B'
	opBinBytes8       = '\x8e'
	opByteArray8      = '\x96'
	opEmptyTuple      = ')'
	opTuple           = 't'
	opTuple1          = '\x85'
	opTuple2          = '\x86'
	opTuple3          = '\x87'
	opEmptyList       = ']'
	opList            = 'l'
	opAppend          = 'a'
	opAppends         = 'e'
	opEmptyDict       = '}'
	opDict            = 'd'
	opSetItem         = 's'
	opSetItems        = 'u'
	opEmptySet        = '\x8f'
	opAddItems        = '\x90'
	opFrozenSet       = '\x91'
	opGlobal          = 'c'
	opStackGlobal     = '\x93'
	opReduce          = 'R'
	opNewObj          = '\x81'
	opBuild           = 'b'
	opMemoize         = '\x94'
	opPut             = 'p'
	opBinPut          = 'q'
	opLongBinPut      = 'r'
	opGet             = 'g'
	opBinGet          = 'h'
	opLongBinGet      = 'j'
)

// opNames are for messages, and so have the opcodes we refuse as well.
var opNames = map[byte]string{
	opProto: "PROTO", opFrame: "FRAME", opStop: "STOP", opMark: "MARK",
	opNone: "NONE", opTrue: "NEWTRUE", opFalse: "NEWFALSE",
	opInt: "INT", opLong: "LONG", opBinInt: "BININT", opBinInt1: "BININT1", opBinInt2: "BININT2",
	opLong1: "LONG1", opLong4: "LONG4", opFloat: "FLOAT", opBinFloat: "BINFLOAT",
	opUnicode: "UNICODE", opShortBinUnicode: "SHORT_BINUNICODE", opBinUnicode: "BINUNICODE", opBinUnicode8: "BINUNICODE8",
	opShortBinBytes: "SHORT_BINBYTES", opBinBytes: "BINBYTES", opBinBytes8: "BINBYTES8", opByteArray8: "BYTEARRAY8",
	opEmptyTuple: "EMPTY_TUPLE", opTuple: "TUPLE", opTuple1: "TUPLE1", opTuple2: "TUPLE2", opTuple3: "TUPLE3",
	opEmptyList: "EMPTY_LIST", opList: "LIST", opAppend: "APPEND", opAppends: "APPENDS",
	opEmptyDict: "EMPTY_DICT", opDict: "DICT", opSetItem: "SETITEM", opSetItems: "SETITEMS",
	opEmptySet: "EMPTY_SET", opAddItems: "ADDITEMS", opFrozenSet: "FROZENSET",
	opGlobal: "GLOBAL", opStackGlobal: "STACK_GLOBAL", opReduce: "REDUCE", opNewObj: "NEWOBJ", opBuild: "BUILD",
	opMemoize: "MEMOIZE", opPut: "PUT", opBinPut: "BINPUT", opLongBinPut: "LONG_BINPUT",
	opGet: "GET", opBinGet: "BINGET", opLongBinGet: "LONG_BINGET",

	'0': "POP", '1': "POP_MARK", '2': "DUP", 'P': "PERSID", 'Q': "BINPERSID",
	'S': "STRING", 'T': "BINSTRING", 'U': "SHORT_BINSTRING", 'i': "INST", 'o': "OBJ",
	'\x82': "EXT1", '\x83': "EXT2", '\x84': "EXT4", '\x92': "NEWOBJ_EX",
	'\x97': "NEXT_BUFFER", '\x98': "READONLY_BUFFER",
}

func opName(op byte) string {
	if name, ok := opNames[op]; ok {
		return name
	}
	return fmt.Sprintf("opcode %#02x", op)
}
