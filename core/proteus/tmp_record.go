package proteus
import ("context";"github.com/conclave-mls/conclave/core")
type RecordKind uint8
type Record struct { Kind RecordKind; Key, Value []byte }
type RecordQuery struct { Kind RecordKind; Prefix, After []byte; Limit int }
type Fetch func(ctx context.Context, queries []RecordQuery) ([][]Record, error)
type RecordRange struct { Kind RecordKind; Prefix []byte }
type WriteSet struct { Dels []RecordRange; Puts []Record; Retired []core.Secret }
func (w *WriteSet) put(kind RecordKind, key, value []byte) { w.Puts = append(w.Puts, Record{kind,key,value}) }
func (w *WriteSet) del(kind RecordKind, prefix []byte) { w.Dels = append(w.Dels, RecordRange{kind,prefix}) }
func (w *WriteSet) retire(s ...core.Secret) { w.Retired = append(w.Retired, s...) }
