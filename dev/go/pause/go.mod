module tidegate.local/dev/go/pause

go 1.24.0
