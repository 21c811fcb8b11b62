"""The scripts that `rkt completion` prints.

Each asks `rkt completion --words -- WORDS...` and shows what it says.
"""

from __future__ import annotations

BASH = r"""# bash completion for rkt: source <(rkt completion bash)

_rkt() {
    # bash splits words at = and : too; what it takes for the word is $2.
    local line=${COMP_LINE:0:COMP_POINT} candidate prefix IFS=$' \t\n'
    local -a words
    read -ra words <<<"$line"
    case $line in *[[:space:]]) words+=("") ;; esac
    local last=${words[${#words[@]}-1]}
    prefix=${last%"$2"}
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        case $candidate in
            :files | :dirs)
                local kind=-f
                [ "$candidate" = :dirs ] && kind=-d
                compopt -o filenames 2>/dev/null
                while read -r candidate; do
                    COMPREPLY+=("$candidate")
                done < <(compgen "$kind" -- "$2")
                ;;
            *) COMPREPLY+=("${candidate#"$prefix"}") ;;
        esac
    done < <(command "${words[0]}" completion --words -- "${words[@]:1}" 2>/dev/null)
    case ${#COMPREPLY[@]},${COMPREPLY[0]-} in
        1,*=) compopt -o nospace 2>/dev/null ;;
    esac
}
complete -F _rkt rkt
"""

ZSH = r"""#compdef rkt
# zsh completion for rkt: source <(rkt completion zsh), or a file _rkt in a directory of $fpath

_rkt() {
    local line files= candidate about
    local -a lines whole open
    lines=("${(@f)$(command "${(Q)words[1]}" completion --words -- \
        "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    for line in $lines; do
        candidate=${line%%$'\t'*} about=${line#*$'\t'}
        case $candidate in
            '') ;;
            :files) files='_files' ;;
            :dirs) files='_files -/' ;;
            *=) open+=("${candidate//:/\\:}:$about") ;;
            *) whole+=("${candidate//:/\\:}:$about") ;;
        esac
    done
    (( $#open )) && _describe -t flags flag open -S ''
    (( $#whole )) && _describe -t words word whole
    if [[ -n $files ]]; then
        [[ $PREFIX == --*=* ]] && compset -P '*='
        ${=files}
    fi
    return 0
}
if [[ $funcstack[1] == _rkt ]]; then
    _rkt "$@"  # loaded from $fpath by the first TAB
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u }
    compdef _rkt rkt
fi
"""

FISH = r"""# fish completion for rkt: rkt completion fish | source

function __rkt_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    for line in (command $words[1] completion --words -- $words[2..-1] "$word" 2>/dev/null)
        switch $line
            case ':files*' ':dirs*'
                set -l before (string match -r -- '^--[^=]*=' "$word")
                set -l rest (string replace -r -- '^--[^=]*=' '' "$word")
                if string match -q -- ':dirs*' $line
                    for path in (__fish_complete_directories "$rest" '')
                        echo "$before$path"
                    end
                else
                    for path in (__fish_complete_path "$rest")
                        echo "$before$path"
                    end
                end
            case '*'
                echo $line
        end
    end
end
complete -c rkt -f -a '(__rkt_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
