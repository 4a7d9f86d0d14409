#!/bin/sh
# Man pages and completions of programs that have been built, for the package: extras.sh FOLDER-OF-PROGRAMS FOLDER
set -eu
programs=$1 extras=$2
rm -rf "$extras"
mkdir -p "$extras/man"
"$programs/petrel" --man > "$extras/man/petrel.1"
"$programs/petrelctl" man "$extras/man"
gzip -9 -n -f "$extras"/man/*.1
for shell in bash zsh fish; do
    "$programs/petrelctl" completions "$shell" > "$extras/petrelctl.$shell"
done
